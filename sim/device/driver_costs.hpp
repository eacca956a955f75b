#pragma once

#include <cstdint>
#include <span>

#include "sim/core/units.hpp"

namespace peakcast {

/// One measured latency: a driver call of `size` took `cost`.
struct CostPoint {
  Bytes size{};
  SimDuration cost{};
};

/// Host time of each driver call, by size. Between two measured sizes the cost is interpolated
/// linearly (rounded down to a whole ns); below the first it is the first's; above the last the
/// slope of the last two goes on.
struct DriverCosts {
  std::span<const CostPoint> acquire{};
  std::span<const CostPoint> release{};
  std::span<const CostPoint> create{};
  std::span<const CostPoint> map{};
  std::span<const CostPoint> set_access{};
  SimDuration
      set_access_mapping{};  ///< of cuMemSetAccess per mapping in the range beyond the first
  std::span<const CostPoint> unmap{};
  std::span<const CostPoint> destroy{};
  std::span<const CostPoint> pool_grow{};  ///< cudaMallocAsync that takes memory from the device
  SimDuration pool_hit{};                  ///< cudaMallocAsync served by the pool
  SimDuration pool_free{};                 ///< cudaFreeAsync
};

/// Precondition: points not empty, ascending by size. O(points).
[[nodiscard]] SimDuration cost_at(std::span<const CostPoint> points, Bytes size);

/// Measured on an H100 80GB HBM3, driver 580.159.04, CUDA 13.0, 2026-11: the driver costs program
/// of the recordings (`peakcast-cuda-check device` measures them again on any card). Other cards
/// use these until they are measured.
[[nodiscard]] const DriverCosts& h100_driver_costs();

}  // namespace peakcast
