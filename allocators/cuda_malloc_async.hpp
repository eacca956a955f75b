#pragma once

#include <memory>

#include "allocators/registry.hpp"

namespace peakcast {

/// The driver's stream-ordered pool, used as PyTorch's backend:cudaMallocAsync does: no rounding,
/// an unlimited release threshold, the three reuse rules on, so that streams share the pool.
/// `allocated` is the sum of the requests, as the driver reports it.
/// Settings: `threshold:SIZE`, what the pool keeps when the device is next waited for (default: all
/// of it, as PyTorch sets it; the driver's own default is 0). Applied where the host waits in a
/// free of another stream's block, in empty_cache and at the start of an iteration.
/// Source: CUDA runtime API, section "Stream Ordered Memory Allocator"; c10/cuda's
/// CUDAMallocAsyncAllocator, re-described; growth as measured (driver costs, `pool_growth`).
/// Leaves out: where blocks lie in the pool is the device's business; the simulated one models it.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_cuda_malloc_async(
    Device& device, Streams& streams, const PolicyOptions& options);

}  // namespace peakcast
