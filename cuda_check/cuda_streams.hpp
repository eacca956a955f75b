#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <cuda_runtime_api.h>

#include "sim/core/units.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {

/// Real streams and events behind Streams. Ids of events are reused once forgotten.
/// Not copyable; owns its events, and the streams it made itself.
class CudaStreams final : public Streams {
 public:
  /// Makes `count` streams of its own that do not wait for the legacy default stream.
  explicit CudaStreams(std::size_t count);
  /// Knows no stream yet; add() brings those that a program made.
  CudaStreams() = default;
  ~CudaStreams() override;
  CudaStreams(const CudaStreams&) = delete;
  CudaStreams& operator=(const CudaStreams&) = delete;

  /// The id of a stream that someone else made and keeps alive. O(streams): there are few.
  [[nodiscard]] StreamId add(cudaStream_t stream);
  [[nodiscard]] cudaStream_t handle(StreamId stream) const { return streams_.at(stream.value); }

  [[nodiscard]] EventId record(StreamId stream) override;
  [[nodiscard]] bool completed(EventId event) override;
  void wait(EventId event) override;
  void synchronize(StreamId stream) override;
  void synchronize_device() override;
  void stream_wait(StreamId waiter, EventId event) override;
  void forget(EventId event) override;

 private:
  std::vector<cudaStream_t> streams_{};  ///< by StreamId
  std::size_t owned_{};                  ///< the first so many are ours
  std::vector<cudaEvent_t> events_{};    ///< by EventId
  std::vector<std::uint32_t> forgotten_{};
};

}  // namespace peakcast
