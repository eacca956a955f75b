#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// Two-level segregated fit: free blocks in lists by power of two and 32 steps within it; a request
/// rounds up to the next list's least size and takes the head of the first list that has one, in
/// constant time, so that a block of its own list that would just fit is passed over. Blocks are
/// multiples of 512 bytes, every remainder splits off, free neighbours join. Grows by the request
/// or `segment` (32 MiB), whichever is larger, in pages of 2 MiB.
/// Settings: `segment:SIZE`.
/// Source: Masmano, Ripoll, Crespo, Real, "TLSF: a new dynamic memory allocator for real-time
/// systems", ECRTS 2004.
/// Leaves out: headers inside blocks (device memory is not the host's to write).
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_tlsf(Device& device, Streams& streams,
                                                             const PolicyOptions& options);

}  // namespace peakcast
