#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What was reserved when the recording began: what its final segments hold, less what the entries
/// gained and plus what they gave back. nullopt when there are no final segments, or when they and
/// the entries do not belong together (less than nothing).
[[nodiscard]] std::optional<Bytes> reserved_at_start(const Recording& recording);

/// The size of the block that an allocator makes for a request of `requested` bytes out of the
/// `room` free bytes of `segment` that begin where the block does.
using BlockRule = std::function<Bytes(Bytes requested, Bytes room, const RecordedSegment& segment)>;

/// What PyTorch makes of a request by default: a multiple of 512 bytes, split off unless what is
/// left is too small to be a block of that pool.
[[nodiscard]] Bytes default_block_size(Bytes requested, Bytes room, const RecordedSegment& segment);

/// The heap that a recording began with: its final segments, walked back through its entries. Of
/// each entry the opposite is done, last entry first:
///
///     alloc           the block is free again, and joins what is free beside it
///     free_completed  the block is in use, held by a stream: its request is in the entry, its size
///                     what `rule` makes of that
///     free_requested  the program has the block
///     segment_alloc   the segment is gone          segment_free   it is there, wholly free
///     segment_map     the pages are gone           segment_unmap  they are there, free
///
/// Segments come ascending by address and their blocks tile them; free blocks that touch are one.
/// An expandable segment shows as its mapped runs, as in PyTorch's snapshots.
///
/// The entries do not tell a block's size. A block of the large pool may end up to 1 MiB behind its
/// request, where no other would fit in between: it does if its neighbour or the segment's end
/// lies there at any time while it lives.
///
/// An error when entries and segments do not belong together (addresses that were changed, a
/// snapshot without its segments, a pool that was set back by a CUDA graph): its message names the
/// entry. O(entries x log blocks).
[[nodiscard]] Expected<std::vector<RecordedSegment>> recorded_start(const Recording& recording,
                                                                    const BlockRule& rule);

}  // namespace peakcast
