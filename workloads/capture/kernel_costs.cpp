#include "workloads/capture/kernel_costs.hpp"

#include <algorithm>

namespace peakcast::capture {
namespace {

/// PyTorch's elementwise kernels give each thread four elements; reading and writing four bytes
/// each are 32 bytes a thread. Source: aten/src/ATen/native/cuda/thread_constants.h.
constexpr std::uint64_t kBytesPerThread = 32;
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 40;

}  // namespace

SimDuration kernel_time(const GpuDescription& gpu, std::string_view /*name*/, std::uint64_t threads,
                        void** /*arguments*/) {
  const std::uint64_t moved = std::min(threads, kMostBytes / kBytesPerThread) * kBytesPerThread;
  return streaming_time(gpu, Bytes{static_cast<std::int64_t>(moved)});
}

}  // namespace peakcast::capture
