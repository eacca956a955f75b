#pragma once

#include <cstdint>
#include <string_view>

#include "sim/core/units.hpp"
#include "sim/engine/cost_model.hpp"

namespace peakcast::capture {

/// What a kernel takes on the card, from its mangled name, its threads and its parameters.
[[nodiscard]] SimDuration kernel_time(const GpuDescription& gpu, std::string_view name,
                                      std::uint64_t threads, void** arguments);

}  // namespace peakcast::capture
