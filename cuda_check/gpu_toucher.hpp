#pragma once

#include <chrono>
#include <cstdint>

#include "cuda_check/cuda_streams.hpp"
#include "cuda_check/toucher.hpp"

namespace peakcast {

/// A Toucher with real kernels. Borrows `streams`, which outlives it. Allocates no device memory.
/// What the kernels find is kept once per process: one GpuToucher at a time.
class GpuToucher final : public Toucher {
 public:
  /// `pause`: how long a slow consumer is busy before it reads.
  GpuToucher(CudaStreams& streams, std::chrono::microseconds pause);

  void fill(const TouchedBlock& block, StreamId stream) override;
  void verify(const TouchedBlock& block, StreamId stream) override;
  void verify_late(const TouchedBlock& block, StreamId owner, StreamId user) override;
  void verify_after_pause(const TouchedBlock& block, StreamId stream) override;
  [[nodiscard]] TouchReport finish() override;

 private:
  CudaStreams* streams_;
  std::uint64_t pause_ns_;
  std::int64_t filled_bytes_{};
  std::int64_t verified_bytes_{};
};

}  // namespace peakcast
