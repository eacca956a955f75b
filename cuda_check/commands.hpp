#pragma once

#include <span>

#include "sim/app/command.hpp"

namespace peakcast {

/// The commands of peakcast-cuda-check: device, replay, oom.
[[nodiscard]] std::span<const app::Command> cuda_check_commands();

}  // namespace peakcast
