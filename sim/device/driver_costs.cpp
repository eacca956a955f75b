#include "sim/device/driver_costs.hpp"

#include <array>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr SimDuration us(double microseconds) {
  return SimDuration{static_cast<std::int64_t>(microseconds * 1000.0 + 0.5)};
}

constexpr std::array kAcquire{CostPoint{2_MiB, us(44.76)},   CostPoint{20_MiB, us(47.28)},
                              CostPoint{64_MiB, us(55.47)},  CostPoint{256_MiB, us(61.15)},
                              CostPoint{1_GiB, us(128.20)},  CostPoint{4_GiB, us(631.43)},
                              CostPoint{16_GiB, us(7594.68)}};
constexpr std::array kRelease{CostPoint{2_MiB, us(36.80)},    CostPoint{20_MiB, us(54.74)},
                              CostPoint{64_MiB, us(91.31)},   CostPoint{256_MiB, us(181.83)},
                              CostPoint{1_GiB, us(607.13)},   CostPoint{4_GiB, us(2995.24)},
                              CostPoint{16_GiB, us(11982.64)}};
constexpr std::array kCreate{CostPoint{2_MiB, us(24.48)},  CostPoint{20_MiB, us(23.47)},
                             CostPoint{64_MiB, us(23.27)}, CostPoint{256_MiB, us(20.09)},
                             CostPoint{1_GiB, us(28.84)},  CostPoint{4_GiB, us(87.42)}};
constexpr std::array kMap{CostPoint{2_MiB, us(1.21)},  CostPoint{20_MiB, us(1.03)},
                          CostPoint{64_MiB, us(1.07)}, CostPoint{256_MiB, us(1.16)},
                          CostPoint{1_GiB, us(1.37)},  CostPoint{4_GiB, us(3.88)}};
constexpr std::array kSetAccess{CostPoint{2_MiB, us(49.44)},  CostPoint{20_MiB, us(47.70)},
                                CostPoint{64_MiB, us(47.93)}, CostPoint{256_MiB, us(50.76)},
                                CostPoint{1_GiB, us(82.45)},  CostPoint{4_GiB, us(280.13)}};
constexpr std::array kUnmap{CostPoint{2_MiB, us(29.16)},  CostPoint{20_MiB, us(27.86)},
                            CostPoint{64_MiB, us(27.47)}, CostPoint{256_MiB, us(27.97)},
                            CostPoint{1_GiB, us(37.61)},  CostPoint{4_GiB, us(80.31)}};
constexpr std::array kDestroy{CostPoint{2_MiB, us(14.60)},  CostPoint{20_MiB, us(25.53)},
                              CostPoint{64_MiB, us(52.05)}, CostPoint{256_MiB, us(159.64)},
                              CostPoint{1_GiB, us(584.43)}, CostPoint{4_GiB, us(3170.10)}};
// With a release threshold of 0 every call takes its memory from the device.
constexpr std::array kPoolGrow{CostPoint{1_MiB, us(61.88)}, CostPoint{2_MiB, us(57.63)},
                               CostPoint{20_MiB, us(58.40)}, CostPoint{256_MiB, us(349.22)},
                               CostPoint{4_GiB, us(5918.52)}};

}  // namespace

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
  return SimDuration{static_cast<std::int64_t>(cost)};
}

const DriverCosts& h100_driver_costs() {
  static constexpr DriverCosts kCosts{.acquire = kAcquire,
                                      .release = kRelease,
                                      .create = kCreate,
                                      .map = kMap,
                                      .set_access = kSetAccess,
                                      .unmap = kUnmap,
                                      .destroy = kDestroy,
                                      .pool_grow = kPoolGrow,
                                      .pool_hit = us(1.50),
                                      .pool_free = us(0.91)};
  return kCosts;
}

}  // namespace peakcast
