#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// Unified memory with a host tier: buffers above 1 MiB own 2 MiB pages, which need not be
/// contiguous on the card; freed ones are kept for their size as long as the card holds no more
/// than was once in use; and when the card (or the limit) is full, the buffer that was touched
/// longest ago moves to the host. What the policy can see of touches: a buffer is touched when it
/// is allocated and right before it is freed (an activation's backward pass), so a buffer that is
/// freed on the host first comes back; and one that lived on the host through an iteration is
/// counted in and out once per iteration (a parameter). Time for all of it: bytes over the link's
/// rate, see `transfers`. Smaller buffers stay on the card, in the native small segments.
/// Settings: `resident:SIZE`, the most that may lie on the card (default: the limit, or the card);
/// `rate:SIZE` per second (55 GB).
/// Source: CUDA programming guide, "Unified Memory"; the rate: a PCIe 5.0 x16 link's 63 GB/s less
/// packet overhead, not measured on a card of ours.
/// Leaves out: prefetching, reads of a buffer between its first and last use, faults by single
/// page.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_swap(Device& device, Streams& streams,
                                                             const PolicyOptions& options);

}  // namespace peakcast
