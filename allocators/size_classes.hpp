#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "sim/core/units.hpp"

namespace peakcast {

/// `size` rounded up to jemalloc's series: multiples of `least` up to four of it, then four steps
/// per doubling (4, 5, 6, 7, 8, 10, 12, 14, 16, 20 ... times `least`). Precondition: size > 0,
/// `least` a power of two. Source: jemalloc(3), "size classes".
[[nodiscard]] constexpr Bytes size_class(Bytes size, Bytes least) {
  const auto top = static_cast<std::uint64_t>(std::max(size, least).count() - 1);
  const std::int64_t doubling = std::int64_t{1} << (std::bit_width(top) - 1);
  return round_up(size, Bytes{std::max(doubling / 4, least.count())});
}
static_assert(size_class(Bytes{1}, Bytes{256}) == Bytes{256});
static_assert(size_class(Bytes{1024}, Bytes{256}) == Bytes{1024});
static_assert(size_class(Bytes{1025}, Bytes{256}) == Bytes{1280});
static_assert(size_class(Bytes{2049}, Bytes{256}) == Bytes{2560});
static_assert(size_class(Bytes{8193}, Bytes{256}) == Bytes{10240});

}  // namespace peakcast
