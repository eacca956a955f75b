#pragma once

#include "cuda_check/card_description.hpp"

namespace peakcast {

/// Measures the current card, which nothing else should use meanwhile: a minute at most. Must be
/// the process's first use of CUDA, or the context's size cannot be seen. Throws DriverError.
[[nodiscard]] CardDescription measure_card();

}  // namespace peakcast
