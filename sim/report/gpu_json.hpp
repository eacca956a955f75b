#pragma once

#include "sim/device/gpu_description.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// The card as parse_gpu_description() reads it, every field written: reading it again gives an
/// equal card.
[[nodiscard]] Json gpu_json(const GpuDescription& gpu);

/// The groups of it, for writers that know only a part of a card.
[[nodiscard]] Json rates_json(const GpuRates& rates);
[[nodiscard]] Json driver_costs_json(const DriverCosts& costs);

}  // namespace peakcast
