#include "sim/app/statistics_json.hpp"

#include <cmath>

namespace peakcast::app {
namespace {

template <class Pick>
Json levels_json(const Statistics& statistics, Pick pick) {
  Json out;
  out["requested_bytes"] = pick(statistics.requested);
  out["allocated_bytes"] = pick(statistics.allocated);
  out["active_bytes"] = pick(statistics.active);
  out["reserved_bytes"] = pick(statistics.reserved);
  out["inactive_split_bytes"] = pick(statistics.inactive_split);
  return out;
}

}  // namespace

Json peak_json(const Statistics& statistics) {
  return levels_json(statistics, [](const Level& level) { return level.peak; });
}

Json final_json(const Statistics& statistics) {
  return levels_json(statistics, [](const Level& level) { return level.current; });
}

Json counts_json(const Statistics& statistics) {
  Json out;
  out["allocs"] = statistics.allocations.allocated;
  out["frees"] = statistics.allocations.freed();
  out["segments_allocated"] = statistics.segments.allocated;
  out["segments_freed"] = statistics.segments.freed();
  out["alloc_retries"] = statistics.num_alloc_retries;
  out["ooms"] = statistics.num_ooms;
  return out;
}

double fragmentation(const Statistics& statistics) {
  if (statistics.reserved.peak <= 0) {
    return 0;
  }
  constexpr double kPlaces = 1e6;
  const double share = 1.0 - static_cast<double>(statistics.allocated.peak) /
                                 static_cast<double>(statistics.reserved.peak);
  return std::round(share * kPlaces) / kPlaces;
}

}  // namespace peakcast::app
