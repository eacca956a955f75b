#pragma once

#include "sim/alloc/allocator.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// `peak` and `final`: {requested_bytes, allocated_bytes, active_bytes, reserved_bytes,
/// inactive_split_bytes}.
[[nodiscard]] Json peak_json(const Statistics& statistics);
[[nodiscard]] Json final_json(const Statistics& statistics);
/// {allocs, frees, segments_allocated, segments_freed, alloc_retries, ooms}.
[[nodiscard]] Json counts_json(const Statistics& statistics);
/// 1 - allocated peak / reserved peak, to six decimals; 0 when nothing was reserved.
[[nodiscard]] double fragmentation(const Statistics& statistics);

}  // namespace peakcast::app
