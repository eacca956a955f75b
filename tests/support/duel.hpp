#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "allocators/pytorch/caching_allocator.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/heap_text.hpp"
#include "tests/support/naive_allocator.hpp"
#include "tests/support/random.hpp"
#include "tests/support/scripted_streams.hpp"

namespace peakcast::support {

/// One step of a random program. Every sequence of them is a valid program: `a` picks among what
/// there is (modulo how much there is), and a step that finds nothing to pick does nothing. So a
/// failing program can lose any of its steps and still run, and any bytes make one.
struct Operation {
  enum class Kind : std::uint8_t {
    allocate,       ///< a bytes on stream b
    free,           ///< the a-th live block
    record_stream,  ///< of the a-th live block, for stream b
    complete,       ///< the next a events of stream b end
    empty_cache,
    poll,
    create_pool,   ///< bits of a: use_on_oom, no_split, own device
    destroy_pool,  ///< the a-th pool
    begin_pool,    ///< allocate to the a-th pool, from stream b; b = 3: from all
    end_pool,      ///< the a-th of the pools that are allocated to
    configure,     ///< the a-th of duel_settings()
    set_limit,     ///< to a MiB; 0: none
  };
  static constexpr int kKinds = 12;
  Kind kind{};
  std::int64_t a{};
  std::uint32_t b{};
};
/// As C++: "{Kind::allocate, 1048576, 0}".
std::ostream& operator<<(std::ostream& out, const Operation& operation);
/// One a line, to be pasted into a regression test.
[[nodiscard]] std::string as_code(std::span<const Operation> program);

/// Settings strings that programs run under.
[[nodiscard]] std::span<const std::string_view> duel_settings();

struct DuelSetup {
  std::size_t settings{};  ///< index into duel_settings()
  std::optional<Bytes> limit{};
  Bytes total{std::int64_t{1} << 30};
  std::string_view version{};
  bool free_waits{};  ///< cudaFree waits for all streams, as the real one does
  bool quiet{};       ///< nobody hears of events: the policy may take its short ways
};
std::ostream& operator<<(std::ostream& out, const DuelSetup& setup);

/// The policy and the naive reference, each on a device and streams of its own, through the same
/// program.
class Duel {
 public:
  static constexpr std::uint32_t kStreams = 3;

  explicit Duel(const DuelSetup& setup);
  ~Duel();
  Duel(const Duel&) = delete;
  Duel& operator=(const Duel&) = delete;

  /// Runs one step. Says what differs afterwards, or what is wrong with the heap; nothing when all
  /// is well: outcomes, events (unless quiet), every statistic, every block, the device's books.
  [[nodiscard]] std::optional<std::string> step(const Operation& operation);
  [[nodiscard]] std::size_t live() const { return live_.size(); }
  [[nodiscard]] std::int64_t ooms() const { return policy_.statistics().num_ooms; }

 private:
  struct Side {
    explicit Side(const DuelSetup& setup);
    ScriptedStreams streams{};
    SimulatedDevice device;
    ModelledAddresses own_addresses;
    SimulatedDevice own;  // what pools with an allocator of their own take from
    EventLog log{};
  };
  struct Live {
    BlockId policy{};
    BlockId naive{};
  };

  [[nodiscard]] std::optional<std::string> apply(const Operation& operation);
  [[nodiscard]] std::optional<std::string> allocate(Bytes size, StreamId stream);
  [[nodiscard]] std::optional<std::string> compare();

  Side policy_side_;
  Side naive_side_;
  pytorch::Version version_;
  pytorch::CachingAllocator policy_;
  NaiveAllocator naive_;
  std::vector<Live> live_{};
  std::vector<pytorch::PoolId> pools_{};
  std::vector<pytorch::PoolId> diversions_{};
  int pools_made_{};
  pytorch::Settings at_start_;
  bool ever_expandable_{};
};

/// A program of `length` steps under a setup of its own, both drawn from `seed`.
struct RandomProgram {
  DuelSetup setup{};
  std::vector<Operation> steps{};
};
[[nodiscard]] RandomProgram random_program(std::uint64_t seed, std::size_t length);

/// The first trouble of a whole program, with its step.
[[nodiscard]] std::optional<std::string> run(const DuelSetup& setup,
                                             std::span<const Operation> program);
/// Takes steps away as long as the program still fails. O(steps^2) runs at worst.
[[nodiscard]] std::vector<Operation> shrink(const DuelSetup& setup, std::vector<Operation> program);

}  // namespace peakcast::support
