#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "sim/trace/trace.hpp"

namespace peakcast {

struct BadOp {
  std::size_t op{};  ///< index into Trace::ops; its size for a fault of the trace as a whole
  std::string why{};
};

/// The first thing that makes a trace unfit for a replay, or nothing: ids in range, sizes within
/// limits, an allocation only of a slot that is free, a free only of a live buffer, `complete` only
/// of a held one, sums inside 63 bits, tables of one length. Readers promise it for what they
/// return. O(ops).
[[nodiscard]] std::optional<BadOp> first_fault(const Trace& trace);

/// What is odd about a recording but does not keep it from being replayed.
struct Finding {
  std::size_t event{};  ///< index into Recording::events; their number for the recording as a whole
  std::string what{};
};

/// Looks for entries that cannot have happened in one process with a whole log: a block outside
/// every segment or over another block, a segment over another or freed under live blocks, time
/// that runs backwards, a final snapshot that does not show what is live. At most `most` findings,
/// in order. Nothing for a trace without a recording. O(entries log live).
[[nodiscard]] std::vector<Finding> findings(const Trace& trace, std::size_t most);

}  // namespace peakcast
