#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// Sum of the calls of every kind.
[[nodiscard]] std::int64_t device_calls(const DeviceCounts& counts);
/// Driver time, and the measured host time of a call of PyTorch's allocator for each request and
/// each free: the policies' own lists are about as long as its.
[[nodiscard]] SimDuration allocator_time(SimDuration device_time, std::int64_t program_ops);

/// What one repeat of the last iteration cost.
struct RepeatCost {
  std::int64_t device_calls{};
  SimDuration device_time{};
  SimDuration allocator_time{};
};
/// Of the last `repeats` iterations of `report`.
[[nodiscard]] std::vector<RepeatCost> repeat_costs(const ReplayReport& report,
                                                   std::int64_t repeats);

[[nodiscard]] Json repeats_json(const std::vector<RepeatCost>& costs);
/// "12, 3, 0, 0, 0 in 1 to 5; 0 in 100; 0.3 ms": driver calls of the first repeats and the last,
/// and the driver's time in all of them.
[[nodiscard]] std::string repeats_text(const std::vector<RepeatCost>& costs);

}  // namespace peakcast::app
