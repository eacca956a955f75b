#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/trace/pickle.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// A PyTorch memory snapshot (torch.cuda.memory._dump_snapshot) as a trace: the entries of one
/// device, its final segments, the settings in force and annotations (as marks). A stack becomes
/// the label "name (file:line) < caller (file:line) < …", up to 4 KiB of it.
///
/// `device`: whose entries; without it the only device that has any (several are an error that
/// lists them). Buffers from before the recording: see derive_program. The head also counts as
/// lost when the file says that entries were overwritten, or when a block was handed out before
/// any segment was gained.
/// Errors name the entry ("device_traces[0][17]: …"). O(size).
[[nodiscard]] Expected<Trace> trace_of_snapshot(const Document& document, const std::string& name,
                                                std::optional<std::int64_t> device);

/// The recording as a snapshot pickle (protocol 4) that the standard viewer opens. Needs
/// trace.recording; every integer must be below 2^53 for the viewer, else it is an error.
[[nodiscard]] Expected<std::string> snapshot_pickle(const Trace& trace);

}  // namespace peakcast
