#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// A stretch of ops between two aligned ones; either side may be empty. Indices into Trace::ops of
/// the first op and past the last; ops that are no part of the alignment may lie in between.
struct DiffHunk {
  std::size_t a_begin{};
  std::size_t a_end{};
  std::size_t b_begin{};
  std::size_t b_end{};
  std::int64_t only_a{};  ///< unmatched ops
  std::int64_t only_b{};
};

/// Buffers of one size and label.
struct BufferGroup {
  Bytes size{};  ///< requested, of each
  std::int64_t count{};
  std::string label{};  ///< of their allocations; "" when there is none
  std::string phase{};  ///< of the first one's allocation
};
/// Buffers that are live at a trace's peak and make its difference to the other trace's peak.
struct PeakShare {
  std::int64_t buffers{};
  Bytes allocated{};
  std::vector<BufferGroup> groups{};  ///< largest total first
};

struct PeakPlace {
  Bytes allocated{};  ///< of live buffers, each rounded up to 512 bytes
  std::int64_t buffers{};
  std::size_t op{};            ///< that reaches it first
  std::int64_t iteration{-1};  ///< -1 before the first mark
  std::string phase{};
};

struct PhaseCount {
  std::string phase{};  ///< "" before the first mark
  std::int64_t matched{};
  std::int64_t only_a{};
  std::int64_t only_b{};
};

struct TraceDiff {
  std::int64_t ops_a{};  ///< allocations, frees and empty_cache: what is aligned
  std::int64_t ops_b{};
  std::int64_t matched{};         ///< in the same order
  std::int64_t moved{};           ///< allocations beyond these that both have, at other places
  std::vector<DiffHunk> hunks{};  ///< in order; empty when the programs are the same
  PeakPlace peak_a{};
  PeakPlace peak_b{};
  PeakShare unmatched_a{};  ///< live at a's peak, without a partner in b
  PeakShare unmatched_b{};
  PeakShare longer_a{};  ///< live at a's peak, with a partner that is not live at b's peak
  PeakShare longer_b{};
  std::vector<PhaseCount> phases{};  ///< by a's marks, then b's, in order of appearance
};

/// Aligns two programs by kind, size and stream (streams by the order in which they are first
/// used) and tells what the difference costs at the peak:
///
///     peak_a - peak_b = unmatched_a + longer_a - unmatched_b - longer_b
///
/// Allocations that are left over are aligned once more among themselves: a buffer that both have,
/// only elsewhere, has a partner too. A pair of frees counts only when the buffers that they free
/// are a pair. See align() for cost.
[[nodiscard]] TraceDiff diff_of(const Trace& a, const Trace& b);

}  // namespace peakcast
