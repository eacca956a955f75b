#include "sim/device/driver_costs.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sim/core/check.hpp"

namespace peakcast {

SimDuration cost_at(std::span<const CostPoint> points, Bytes size) {
  check(!points.empty(), "a driver call without a measured cost");
  if (points.size() == 1 || size <= points.front().size) {
    return points.front().cost;
  }
  std::size_t upper = 1;
  while (upper + 1 < points.size() && points[upper].size < size) {
    ++upper;
  }
  const CostPoint& a = points[upper - 1];
  const CostPoint& b = points[upper];
  // 128-bit integers: the product of a size and a time does not fit in 64 bits.
  __extension__ using Wide = __int128;
  const Wide rise = b.cost.count() - a.cost.count();
  const Wide run = b.size.count() - a.size.count();
  const Wide cost = a.cost.count() + rise * (size.count() - a.size.count()) / run;
  constexpr Wide kTenDays = 864'000'000'000'000;
  return SimDuration{static_cast<std::int64_t>(std::clamp(cost, Wide{0}, kTenDays))};
}

}  // namespace peakcast
