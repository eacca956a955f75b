#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace peakcast {

/// Two positions that an alignment pairs.
struct AlignedPair {
  std::uint32_t a{};
  std::uint32_t b{};
  friend constexpr bool operator==(const AlignedPair&, const AlignedPair&) = default;
};

/// Pairs of equal elements of `a` and `b`, ascending in both: what stays when the fewest elements
/// are left out, as long as that can be afforded. First runs of elements that occur once in either
/// sequence become anchors (patience: the longest chain of them that ascends in both), which keeps
/// iterations of a periodic program apart; between anchors it is Myers' divide and conquer ("An
/// O(ND) difference algorithm and its variations", 1986, section 4b), which settles for the
/// furthest point reached once a part needs more than `effort` edits. O((n + m) x effort) at worst,
/// O(n + m) memory.
[[nodiscard]] std::vector<AlignedPair> align(std::span<const std::uint64_t> a,
                                             std::span<const std::uint64_t> b,
                                             std::size_t effort = 2048);

}  // namespace peakcast
