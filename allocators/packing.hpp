#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// A buffer's life, for packing when all is known ahead: [lower, upper) in any unit of time,
/// lower < upper; size > 0.
struct Lifetime {
  std::int64_t lower{};
  std::int64_t upper{};
  Bytes size{};
  /// How long that is for the search, which places what lives long or is large first; 0: upper -
  /// lower. Says nothing about who lives together.
  std::int64_t duration{};
};

/// An offset per lifetime, in the order they were given, and what the arena must hold.
struct Packing {
  Bytes capacity{};  ///< the highest end; >= floor
  Bytes floor{};     ///< the largest live sum: no packing is below it
  std::vector<Bytes> offsets{};
  std::int64_t steps{};  ///< spent
  bool proved{};         ///< no packing is smaller (capacity == floor, or the search was exhausted)
};

/// How much work a packing may cost. A step is one buffer or one section looked at, a few
/// nanoseconds; it is counted, never timed, so that equal inputs give equal packings.
struct PackBudget {
  std::int64_t heuristic_steps{100'000'000};
  std::int64_t search_steps{8'000'000'000};
  /// Above this many lifetimes there is no search: a node of it looks at every lifetime.
  std::int64_t search_lifetimes{1000};
};

/// The lives of a trace's buffers in the order of their allocation, time being the index of the op
/// and durations the trace's own where it tells times. A dropped buffer that another
/// stream still uses lives until its `complete`. Attempts that failed when recorded are left out.
/// O(ops).
[[nodiscard]] std::vector<Lifetime> lifetimes_of(const Trace& trace);

/// The largest sum of sizes alive at one moment. O(n log n).
[[nodiscard]] Bytes largest_live_sum(std::span<const Lifetime> lifetimes);

/// The best packing found within the budget: several greedy orders, re-ordered by what stuck out
/// ("squeaky wheel", Joslin and Clements 1999), then a branch-and-bound search over canonical
/// placements (in the order of their offsets, each resting on another or on the ground) at falling
/// capacities. The search's bounds are those of Moffitt, "MiniMalloc: A Lightweight Memory
/// Allocator for Hardware-Accelerated Machine Learning", ASPLOS 2023: per section of time the
/// lowest reachable floor plus what is still to be placed; no gap that another buffer could fill;
/// no alternatives to a buffer with nothing above it; separate solution of parts that share no
/// time. Ours besides: equal buffers go in one order, and a buffer that was passed and can no
/// longer rise ends the branch.
[[nodiscard]] Packing pack(std::span<const Lifetime> lifetimes, const PackBudget& budget = {});

/// Whether `offsets` puts no two lifetimes that overlap in time over each other, and none below 0.
/// A sweep that knows nothing of the packer. O(n log n + n times the live buffers at most).
[[nodiscard]] bool sound(std::span<const Lifetime> lifetimes, std::span<const Bytes> offsets);

}  // namespace peakcast
