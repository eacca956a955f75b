#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/trace/document.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// A PyTorch memory snapshot (torch.cuda.memory._dump_snapshot) as a trace: the entries of one
/// device, its final segments, the settings in force and annotations (as marks). A stack becomes
/// the label "name (file:line) < caller (file:line) < …", up to 4 KiB of it.
///
/// torch.cuda.memory_snapshot() alone, a list of segments, is one without entries. Blocks that do
/// not tile their segment (a file that was made anonymous) are taken as far as they go; `notes`
/// says so.
///
/// `device`: whose entries; without it the only device that has any, or segments where none has
/// entries (several are an error that lists them). Buffers from before the recording: see
/// derive_program. The head also counts as lost when the file says that entries were overwritten,
/// and when memory was reserved that no entry gained (recorded_start.hpp).
/// Errors name the entry ("device_traces[0][17]: …"). O(size).
[[nodiscard]] Expected<Trace> trace_of_snapshot(const Document& document, const std::string& name,
                                                std::optional<std::int64_t> device,
                                                std::vector<std::string>& notes);

/// The recording as a snapshot pickle (protocol 4) that the standard viewer opens. Needs
/// trace.recording; every integer must be below 2^53 for the viewer, else it is an error.
[[nodiscard]] Expected<std::string> snapshot_pickle(const Trace& trace);

}  // namespace peakcast
