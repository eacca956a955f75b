#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

/// How far the card is while a program calls the driver's pool.
enum class PoolPace : std::uint8_t {
  waited,  ///< held back until the host waits for it
  passed,  ///< held back until the same places, but the host does not ask: the driver must find out
  idle,    ///< never held back
  trained,  ///< as the kernels of a training run let it: the program's `passed` steps say how far
};
[[nodiscard]] std::string_view to_string(PoolPace pace);

struct PoolStep {
  enum class Kind : std::uint8_t { allocate, free, wait, trim, passed };
  Kind kind{};
  std::uint32_t id{};  ///< allocate, free: the buffer; passed: of how many frees so far
  Bytes size{};        ///< allocate; trim: what is kept
  StreamId stream{};   ///< allocate, free
};

/// What the driver said to one allocation.
struct PoolAnswer {
  Bytes offset{};    ///< from the program's first allocation
  Bytes reserved{};  ///< zero: not recorded
  friend bool operator==(const PoolAnswer&, const PoolAnswer&) = default;
};

/// Calls of the driver's pool, and what a driver answered. As CSV: the first line is `#` and the
/// paces that were recorded; then `allocate,id,bytes,stream` and for each pace the offset in steps
/// of 512 bytes and the reserved chunks of 32 MiB; `free,id,stream`; `wait`; `trim,bytes`;
/// `passed,frees`, which is for the pace `trained` alone.
struct PoolProgram {
  std::vector<PoolStep> steps{};
  std::uint32_t streams{};                                ///< StreamId values are below this
  std::map<PoolPace, std::vector<PoolAnswer>> answers{};  ///< one per allocation each
};

/// Errors: the file, a row that is none of the above, a buffer that is not there (or there twice).
[[nodiscard]] Expected<PoolProgram> read_pool_program(const std::string& path);
[[nodiscard]] std::string pool_program_text(const PoolProgram& program);

/// Makes the calls. At each `wait` it calls `at_wait`, which lets the card go on as the pace says,
/// and at each `passed` `at_passed`, if there is one. Nullopt: the card was full. O(steps) calls.
[[nodiscard]] std::optional<std::vector<PoolAnswer>> run_pool_program(
    const PoolProgram& program, Device& device, const std::function<void()>& at_wait,
    const std::function<void(std::uint32_t frees)>& at_passed = {});
/// The same in the simulation, with the card at this pace.
[[nodiscard]] std::optional<std::vector<PoolAnswer>> simulate_pool_program(
    const PoolProgram& program, PoolPace pace, const DeviceSpec& card);

}  // namespace peakcast
