#pragma once

#include <cstdint>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// `trace` with its last iteration `times` times more: what a long run does, of which a recording
/// holds the first few iterations. Each copy begins with the iteration's mark.
///
/// What an iteration frees and did not allocate (its predecessor's gradients, say) is, in a copy,
/// what the copy before left behind, matched by size in the order of allocation. What nothing frees
/// by then is freed where the copy begins, and what other streams still held comes back there.
/// Without the recorded allocator's events and times, of which there are none for the copies.
/// An error: no iteration mark, or more than kMostRepeatedOps in all.
/// Precondition: times >= 1; the trace is valid. O(ops of the result).
[[nodiscard]] Expected<Trace> repeat_last_iteration(Trace trace, std::int64_t times);

inline constexpr std::int64_t kMostRepeatedOps = 100'000'000;  ///< 1.6 GB

}  // namespace peakcast
