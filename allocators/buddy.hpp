#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// The binary buddy system: every block is a power of two of at least 512 bytes, halves split off
/// and join again. A segment of the driver is `segment` (64 MiB) or the request's power of two,
/// whichever is larger; one that the driver refuses is halved. The smallest block that holds a
/// request, ties by address.
/// Settings: `segment:SIZE`, a power of two.
/// Source: Knowlton, "A fast storage allocator", CACM 8 (1965); Knuth, TAOCP 1, section 2.5.
/// Leaves out: other size series (Fibonacci, weighted buddies).
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_buddy(Device& device, Streams& streams,
                                                              const PolicyOptions& options);

}  // namespace peakcast
