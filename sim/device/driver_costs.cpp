#include "sim/device/driver_costs.hpp"

#include <array>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr std::array kAcquire{
    CostPoint{2_MiB, SimDuration{44'760}},    CostPoint{20_MiB, SimDuration{47'280}},
    CostPoint{64_MiB, SimDuration{55'470}},   CostPoint{256_MiB, SimDuration{61'150}},
    CostPoint{1_GiB, SimDuration{128'200}},   CostPoint{4_GiB, SimDuration{631'430}},
    CostPoint{16_GiB, SimDuration{7'594'680}}};
constexpr std::array kRelease{
    CostPoint{2_MiB, SimDuration{36'800}},     CostPoint{20_MiB, SimDuration{54'740}},
    CostPoint{64_MiB, SimDuration{91'310}},    CostPoint{256_MiB, SimDuration{181'830}},
    CostPoint{1_GiB, SimDuration{607'130}},    CostPoint{4_GiB, SimDuration{2'995'240}},
    CostPoint{16_GiB, SimDuration{11'982'640}}};
constexpr std::array kCreate{
    CostPoint{2_MiB, SimDuration{24'480}},  CostPoint{20_MiB, SimDuration{23'470}},
    CostPoint{64_MiB, SimDuration{23'270}}, CostPoint{256_MiB, SimDuration{20'090}},
    CostPoint{1_GiB, SimDuration{28'840}},  CostPoint{4_GiB, SimDuration{87'420}}};
constexpr std::array kMap{
    CostPoint{2_MiB, SimDuration{1'210}},  CostPoint{20_MiB, SimDuration{1'030}},
    CostPoint{64_MiB, SimDuration{1'070}}, CostPoint{256_MiB, SimDuration{1'160}},
    CostPoint{1_GiB, SimDuration{1'370}},  CostPoint{4_GiB, SimDuration{3'880}}};
constexpr std::array kSetAccess{
    CostPoint{2_MiB, SimDuration{49'440}},  CostPoint{20_MiB, SimDuration{47'700}},
    CostPoint{64_MiB, SimDuration{47'930}}, CostPoint{256_MiB, SimDuration{50'760}},
    CostPoint{1_GiB, SimDuration{82'450}},  CostPoint{4_GiB, SimDuration{280'130}}};
constexpr std::array kUnmap{
    CostPoint{2_MiB, SimDuration{29'160}},  CostPoint{20_MiB, SimDuration{27'860}},
    CostPoint{64_MiB, SimDuration{27'470}}, CostPoint{256_MiB, SimDuration{27'970}},
    CostPoint{1_GiB, SimDuration{37'610}},  CostPoint{4_GiB, SimDuration{80'310}}};
constexpr std::array kDestroy{
    CostPoint{2_MiB, SimDuration{14'600}},  CostPoint{20_MiB, SimDuration{25'530}},
    CostPoint{64_MiB, SimDuration{52'050}}, CostPoint{256_MiB, SimDuration{159'640}},
    CostPoint{1_GiB, SimDuration{584'430}}, CostPoint{4_GiB, SimDuration{3'170'100}}};
// With a release threshold of 0 every call takes its memory from the device.
constexpr std::array kPoolGrow{
    CostPoint{1_MiB, SimDuration{61'880}}, CostPoint{2_MiB, SimDuration{57'630}},
    CostPoint{20_MiB, SimDuration{58'400}}, CostPoint{256_MiB, SimDuration{349'220}},
    CostPoint{4_GiB, SimDuration{5'918'520}}};

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
                                      .set_access_mapping = SimDuration{22'591},
                                      .unmap = kUnmap,
                                      .destroy = kDestroy,
                                      .pool_grow = kPoolGrow,
                                      .pool_hit = SimDuration{1'500},
                                      .pool_free = SimDuration{910}};
  return kCosts;
}

}  // namespace peakcast
