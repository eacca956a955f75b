#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/device/driver_costs.hpp"
#include "sim/device/gpu_rates.hpp"

namespace peakcast {

/// A whole number of a card's description: its key, where it lies, and what it may be.
template <class Owner>
struct CountField {
  const char* key;
  std::int64_t Owner::*member;
  std::int64_t least;
  std::int64_t most;
};
/// A time in ns: 0 to kMostCardTime.
template <class Owner>
struct TimeField {
  const char* key;
  SimDuration Owner::*member;
};
/// A latency by size, [{"size_bytes", "cost_ns"}, ...] ascending by size.
struct CostField {
  const char* key;
  std::vector<CostPoint> DriverCosts::*member;
};

/// Bounds that keep any sum of a run's times within 64 bits.
inline constexpr std::int64_t kLeastFlops = 1'000'000'000;
inline constexpr std::int64_t kLeastRate = 1'000'000;
inline constexpr std::int64_t kMostRate = 1'000'000'000'000'000'000;
inline constexpr std::int64_t kMostCardTime = 100'000'000'000;

/// The keys of "rates" and of "driver_costs", for the reader and the writer.
inline constexpr std::array<CountField<GpuRates>, 11> kRateFields{{
    {"bf16_flops_per_second", &GpuRates::bf16_flops_per_second, kLeastFlops, kMostRate},
    {"fp16_flops_per_second", &GpuRates::fp16_flops_per_second, kLeastFlops, kMostRate},
    {"tf32_flops_per_second", &GpuRates::tf32_flops_per_second, kLeastFlops, kMostRate},
    {"fp32_flops_per_second", &GpuRates::fp32_flops_per_second, kLeastFlops, kMostRate},
    {"device_bytes_per_second", &GpuRates::device_bytes_per_second, kLeastRate, kMostRate},
    {"cache_bytes_per_second", &GpuRates::cache_bytes_per_second, kLeastRate, kMostRate},
    {"host_to_device_bytes_per_second", &GpuRates::host_to_device_bytes_per_second, kLeastRate,
     kMostRate},
    {"device_to_host_bytes_per_second", &GpuRates::device_to_host_bytes_per_second, kLeastRate,
     kMostRate},
    {"link_bytes_per_second", &GpuRates::link_bytes_per_second, 0, kMostRate},
    {"network_bytes_per_second", &GpuRates::network_bytes_per_second, kLeastRate, kMostRate},
    {"cards_per_node", &GpuRates::cards_per_node, 1, 4096},
}};
inline constexpr std::array<TimeField<GpuRates>, 5> kRateTimes{{
    {"kernel_floor_ns", &GpuRates::kernel_floor},
    {"tile_overhead_ns", &GpuRates::tile_overhead},
    {"link_latency_ns", &GpuRates::link_latency},
    {"network_latency_ns", &GpuRates::network_latency},
    {"collective_floor_ns", &GpuRates::collective_floor},
}};
inline constexpr std::array<CostField, 8> kDriverLists{{
    {"acquire", &DriverCosts::acquire},
    {"release", &DriverCosts::release},
    {"create", &DriverCosts::create},
    {"map", &DriverCosts::map},
    {"set_access", &DriverCosts::set_access},
    {"unmap", &DriverCosts::unmap},
    {"destroy", &DriverCosts::destroy},
    {"pool_grow", &DriverCosts::pool_grow},
}};
inline constexpr std::array<TimeField<DriverCosts>, 4> kDriverTimes{{
    {"set_access_mapping_ns", &DriverCosts::set_access_mapping},
    {"pool_hit_ns", &DriverCosts::pool_hit},
    {"pool_free_ns", &DriverCosts::pool_free},
    {"kernel_launch_ns", &DriverCosts::kernel_launch},
}};

}  // namespace peakcast
