#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

struct RunSnapshot {
  Recording recording{};
  std::vector<std::uint32_t> source{};  ///< per entry: that of the log which it came of
};

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
/// `block_sizes` (per entry of the log; may be empty) tells how large the block of an alloc is: an
/// entry knows the request only. Precondition: log.segments is empty. O(entries log segments).
[[nodiscard]] RunSnapshot run_snapshot(const Recording& log, std::span<const Bytes> block_sizes);

}  // namespace peakcast
