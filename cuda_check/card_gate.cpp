#include "cuda_check/card_gate.hpp"

#include <limits>
#include <vector>

#include "cuda_check/driver_api.hpp"

namespace peakcast {

CardGate::CardGate(CudaStreams& streams, std::uint32_t count) : streams_{streams}, count_{count} {
  void* host = nullptr;
  const std::size_t bytes = (1 + count) * sizeof(std::uint32_t);
  cuda_check(cudaHostAlloc(&host, bytes, cudaHostAllocMapped), "cudaHostAlloc");
  host_ = static_cast<volatile std::uint32_t*>(host);
  for (std::uint32_t i = 0; i <= count; ++i) {
    host_[i] = 0;
  }
  void* device = nullptr;
  cuda_check(cudaHostGetDevicePointer(&device, host, 0), "cudaHostGetDevicePointer");
  device_ = address_of(device).value();
  hold();
}

CardGate::~CardGate() {
  host_[0] = std::numeric_limits<std::int32_t>::max();
  // The streams read it; the memory goes with the process if the device is lost.
  if (cudaDeviceSynchronize() == cudaSuccess) {
    static_cast<void>(cudaFreeHost(const_cast<std::uint32_t*>(host_)));
  }
}

void CardGate::hold() {
  const DriverApi& api = DriverApi::instance();
  ++gate_;
  for (std::uint32_t stream = 0; stream < count_; ++stream) {
    api.check(api.stream_wait_value(streams_.handle(StreamId{stream}), device_, gate_,
                                    CU_STREAM_WAIT_VALUE_GEQ),
              "cuStreamWaitValue32");
  }
}

void CardGate::let_go(bool told) {
  const DriverApi& api = DriverApi::instance();
  const std::uint32_t passed = gate_;
  std::vector<EventId> events;
  for (std::uint32_t stream = 0; stream < count_; ++stream) {
    if (told) {
      events.push_back(streams_.record(StreamId{stream}));
    } else {
      const CUdeviceptr mark = device_ + (1 + stream) * sizeof(std::uint32_t);
      api.check(api.stream_write_value(streams_.handle(StreamId{stream}), mark, passed, 0),
                "cuStreamWriteValue32");
    }
  }
  hold();
  host_[0] = passed;
  for (const EventId event : events) {
    streams_.wait(event);
    streams_.forget(event);
  }
  for (std::uint32_t stream = 0; !told && stream < count_; ++stream) {
    while (host_[1 + stream] < passed) {
    }
  }
}

}  // namespace peakcast
