#include "cuda_check/cuda_streams.hpp"

#include <algorithm>

#include "cuda_check/driver_api.hpp"

namespace peakcast {

CudaStreams::CudaStreams(std::size_t count) : owned_{count} {
  streams_.resize(count);
  for (cudaStream_t& stream : streams_) {
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
}

CudaStreams::~CudaStreams() {
  // Nothing can be done about errors here, and none matters: the process ends with us.
  for (const cudaEvent_t event : events_) {
    static_cast<void>(cudaEventDestroy(event));
  }
  for (std::size_t i = 0; i < owned_; ++i) {
    static_cast<void>(cudaStreamDestroy(streams_[i]));
  }
}

StreamId CudaStreams::add(cudaStream_t stream) {
  const auto found = std::find(streams_.begin(), streams_.end(), stream);
  if (found != streams_.end()) {
    return StreamId{static_cast<std::uint32_t>(found - streams_.begin())};
  }
  streams_.push_back(stream);
  return StreamId{static_cast<std::uint32_t>(streams_.size() - 1)};
}

EventId CudaStreams::record(StreamId stream) {
  std::uint32_t id = 0;
  if (forgotten_.empty()) {
    id = static_cast<std::uint32_t>(events_.size());
    cudaEvent_t event{};
    cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    events_.push_back(event);
  } else {
    id = forgotten_.back();
    forgotten_.pop_back();
  }
  cuda_check(cudaEventRecord(events_[id], handle(stream)), "cudaEventRecord");
  return EventId{id};
}

bool CudaStreams::completed(EventId event) {
  const cudaError_t result = cudaEventQuery(events_.at(event.value));
  if (result == cudaErrorNotReady) {
    static_cast<void>(
        cudaGetLastError());  // not an error, but it would be reported by the next call
    return false;
  }
  cuda_check(result, "cudaEventQuery");
  return true;
}

void CudaStreams::wait(EventId event) {
  cuda_check(cudaEventSynchronize(events_.at(event.value)), "cudaEventSynchronize");
}

void CudaStreams::synchronize(StreamId stream) {
  cuda_check(cudaStreamSynchronize(handle(stream)), "cudaStreamSynchronize");
}

void CudaStreams::synchronize_device() {
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void CudaStreams::forget(EventId event) { forgotten_.push_back(event.value); }

void CudaStreams::stream_wait(StreamId waiter, EventId event) {
  cuda_check(cudaStreamWaitEvent(handle(waiter), events_.at(event.value), 0),
             "cudaStreamWaitEvent");
}

}  // namespace peakcast
