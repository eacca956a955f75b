#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cuda_check/cuda_streams.hpp"

namespace peakcast {

/// Holds the card back: every stream waits for a number that the host has not written yet.
/// Borrows `streams`, which outlives it; at its end everything is let go.
class CardGate {
 public:
  /// `count`: the streams with ids below it. Throws DriverError.
  CardGate(CudaStreams& streams, std::uint32_t count);
  ~CardGate();
  CardGate(const CardGate&) = delete;
  CardGate& operator=(const CardGate&) = delete;

  /// Lets all streams do what they were given so far and holds them there again. Returns when they
  /// are there; `told`: with an event that the host waits for, so that the driver knows it too,
  /// else by a number that the card writes.
  void let_go(bool told);

 private:
  void hold();
  CudaStreams& streams_;
  std::uint32_t count_;
  std::uint32_t gate_{};
  volatile std::uint32_t* host_{};  ///< [0] the host's number, [1 + stream] the card's
  CUdeviceptr device_{};
};

}  // namespace peakcast
