#pragma once

#include "sim/trace/trace.hpp"

namespace peakcast {

/// The recording of a trace, or, for one that was never recorded, entries that tell the same
/// program: alloc, oom (attempts), free_requested and free_completed. Addresses are then made up:
/// they ascend in steps of 512 bytes from 2^46 and none is used twice, so that a reader tells
/// buffers apart. Times and labels are kept; device work, events and marks are not in it. O(ops).
[[nodiscard]] Recording recording_of(const Trace& trace);

}  // namespace peakcast
