#pragma once

#include <string>

#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// `peak` and `final`: {requested_bytes, allocated_bytes, active_bytes, reserved_bytes,
/// inactive_split_bytes}.
[[nodiscard]] Json peak_json(const Statistics& statistics);
[[nodiscard]] Json final_json(const Statistics& statistics);
/// {allocs, frees, segments_allocated, segments_freed, alloc_retries, ooms}.
[[nodiscard]] Json counts_json(const Statistics& statistics);
/// 1 - allocated peak / reserved peak, to six decimals; 0 when nothing was reserved.
[[nodiscard]] double fragmentation(const Statistics& statistics);
/// null, or {iteration, phase, op, event, requested_bytes, free_bytes, largest_free_block_bytes,
/// reserved_bytes, message}. `event` is the recorded entry, or the op when there is no recording.
[[nodiscard]] Json oom_json(const ReplayReport& report, const Trace& trace,
                            const DeviceSpec& device, std::optional<Bytes> limit);
/// PyTorch's own words for it.
[[nodiscard]] std::string oom_message(const OutOfMemory& oom, const DeviceSpec& device,
                                      std::optional<Bytes> limit);

}  // namespace peakcast::app
