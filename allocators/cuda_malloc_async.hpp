#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// The driver's stream-ordered pool, used as PyTorch's backend:cudaMallocAsync does: no rounding,
/// an unlimited release threshold, the three reuse rules on, so that streams share the pool; a
/// request that the driver refuses is an out-of-memory at once, whatever is still pending.
/// `allocated` is the sum of the requests, as the driver reports it.
/// Settings: `threshold:SIZE`, what the pool keeps when the device is next waited for (default: all
/// of it, as PyTorch sets it; the driver's own default is 0). Applied where the host waits in a
/// free of another stream's block, in empty_cache and at the start of an iteration.
/// Source: CUDA runtime API, section "Stream Ordered Memory Allocator"; c10/cuda's
/// CUDAMallocAsyncAllocator, re-described; where blocks lie and when the pool grows as measured
/// (sim/device/stream_ordered_pool.hpp). What a request finds depends on how far the card is: a run
/// is simulated with its clock, a recording at an even pace (sim/engine/paced_streams.hpp).
/// Leaves out: PyTorch frees what other streams used on a stream of its own; here it comes back
/// when the host sees that they are done.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_cuda_malloc_async(
    Device& device, Streams& streams, const PolicyOptions& options);

}  // namespace peakcast
