#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// RAPIDS' pool_memory_resource over cudaMalloc: requests round to 256 bytes, best fit, every
/// larger block is split, free neighbours of one upstream block join. The pool grows by its own
/// size (it doubles) or by the request, whichever is larger; what the driver refuses is halved down
/// to the request. It never shrinks before it is destroyed.
/// Settings: `initial_pool_size:SIZE` (0), `maximum_pool_size:SIZE` (no maximum).
/// Source: rapidsai/rmm, pool_memory_resource and coalescing_free_list, re-described.
/// Leaves out: Python's default of half the card as the initial size (give it to have it); a
/// stream's preference for its own free blocks: it takes others' too, whose work it waits for on
/// the device, so here one list serves all streams.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_rmm_pool(Device& device, Streams& streams,
                                                                 const PolicyOptions& options);

}  // namespace peakcast
