#pragma once

#include <string>

#include "sim/core/error.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Reads the recorded-allocator CSV: one entry a line, no header,
///
///     action,addr,size,stream[,time_us | ,label]
///
/// addr and stream in hex without prefix, size and time in decimal. The fifth column is a time if
/// the first line's is all digits, else a label up to the line's end. Every line has as many
/// columns as the first. Fills recording, streams, strings and derives the program. `sidecar` (may
/// be null) brings settings, final figures and marks. O(bytes).
[[nodiscard]] Expected<Trace> read_recorded_csv(Window& window, const Sidecar* sidecar = nullptr);

/// The same, out of trace.recording: what read_recorded_csv read, byte for byte.
[[nodiscard]] std::string recorded_csv(const Recording& recording,
                                       const std::vector<std::uint64_t>& streams,
                                       const std::vector<std::string>& strings);

}  // namespace peakcast
