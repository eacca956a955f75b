#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// What a widespread claim says a caching allocator should do: freed blocks stay in a hot pool and
/// go back to the driver late, by age; and before more is taken from the driver, cached memory is
/// defragmented. Blocks and segments are the native allocator's, so that the difference is these
/// two rules alone:
///  - a segment that has been wholly free for `age` allocations goes back;
///  - a request that no cached block fits first returns wholly free segments, the largest first,
///    until as much as is about to be taken has gone (device memory cannot be moved, so this is
///    what defragmenting can mean under cudaMalloc), and only then grows.
/// The price is driver calls that the native allocator does not make: they show as device time.
/// Settings: `age:N` allocations (8192, between one and two iterations of BERT-large).
/// Source: the claim itself; no released allocator does this (pytorch 2.5 and 2.6 were compared).
/// Leaves out: copying live blocks, which a framework with raw pointers cannot do.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_deferred_defrag(
    Device& device, Streams& streams, const PolicyOptions& options);

}  // namespace peakcast
