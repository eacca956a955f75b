#pragma once

#include <span>
#include <vector>

#include "sim/core/units.hpp"

namespace peakcast {

/// One measured latency: a driver call of `size` took `cost`.
struct CostPoint {
  Bytes size{};
  SimDuration cost{};
};

/// Host time of each driver call, by size. Between two measured sizes the cost is interpolated
/// linearly (rounded down to a whole ns); below the first it is the first's; above the last the
/// slope of the last two goes on. Every list holds a point. A card's description has them
/// (gpu_description.hpp); `peakcast-cuda-check device` measures them.
struct DriverCosts {
  std::vector<CostPoint> acquire{};
  std::vector<CostPoint> release{};
  std::vector<CostPoint> create{};
  std::vector<CostPoint> map{};
  std::vector<CostPoint> set_access{};
  /// Of cuMemSetAccess, per mapping in the range beyond the first.
  SimDuration set_access_mapping{};
  std::vector<CostPoint> unmap{};
  std::vector<CostPoint> destroy{};
  std::vector<CostPoint> pool_grow{};  ///< cudaMallocAsync that takes memory from the device
  SimDuration pool_hit{};              ///< cudaMallocAsync served by the pool
  SimDuration pool_free{};             ///< cudaFreeAsync
  SimDuration kernel_launch{};         ///< one launch into an idle stream
};

/// Not negative and at most ten days, wherever the slope leads. Precondition: points not empty,
/// ascending by size. O(points).
[[nodiscard]] SimDuration cost_at(std::span<const CostPoint> points, Bytes size);

}  // namespace peakcast
