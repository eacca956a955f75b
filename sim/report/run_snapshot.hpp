#pragma once

#include "sim/alloc/allocator.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// `log` (entries of any allocator, with times and labels where known) as PyTorch's viewer wants a
/// recording, with the segments that are there at the end. The viewer runs a snapshot backwards
/// from its segments: every entry of a block has to lie in a segment of that moment, or it stops.
/// So, in what comes back:
/// - a block that lies in no segment (a driver's pool tells of none) is its own: segment_alloc
///   before its alloc, segment_free behind its free_completed;
/// - a block whose memory is unmapped while the program has it (moved to the host) is freed where
///   it goes and handed out again where it comes back: only what is on the card is shown;
/// - a log with segment_map has no segment_alloc and segment_free: the viewer merges what was
///   mapped with its neighbours, and would not find it again;
/// - entries of what began before the log (a free without an alloc) are left out.
/// `heap` (may be empty) tells how large blocks are that are there at the end: an entry knows the
/// request only. Precondition: log.segments is empty. O(entries log segments).
[[nodiscard]] Recording run_snapshot(const Recording& log, const HeapView& heap);

}  // namespace peakcast
