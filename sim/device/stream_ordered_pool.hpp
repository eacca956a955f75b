#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "sim/core/units.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

class SimulatedDevice;

/// The driver's stream-ordered pool (cudaMallocAsync) with an unlimited release threshold, as
/// PyTorch's backend sets it. It grows by whole multiples of 32 MiB, hands out in steps of 512
/// bytes, and keeps what it has until it is trimmed (measured on an H100, driver 580.159.04:
/// `pool_growth` of the driver costs program). Streams are not told apart: PyTorch's backend turns
/// the driver's three reuse rules on, which let one stream use what another freed in order.
class StreamOrderedPool {
 public:
  explicit StreamOrderedPool(SimulatedDevice& device) : device_{device} {}
  [[nodiscard]] std::optional<Address> allocate(Bytes size, StreamId stream);
  void free(Address address, StreamId stream);
  void trim(Bytes keep);
  [[nodiscard]] Bytes reserved() const { return reserved_; }

 private:
  SimulatedDevice& device_;
  std::map<std::uint64_t, std::uint64_t> holes_{};  // start -> size
  std::map<std::uint64_t, std::uint64_t> live_{};   // start -> size
  std::map<std::uint64_t, std::uint64_t> grown_{};  // start -> size of each growth
  std::uint64_t next_{0x1302000000};                // where the pool's address space goes on
  Bytes reserved_{};
};

}  // namespace peakcast
