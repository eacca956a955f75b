#pragma once

#include <cstdint>

namespace peakcast {

struct GpuDescription;

/// What kernels look up about the card when they size their scratch memory.
struct GpuTraits {
  std::int64_t multiprocessors{};
  std::int64_t threads_per_multiprocessor{};
  int compute_capability{};  ///< 10 * major + minor
};

[[nodiscard]] GpuTraits traits_of(const GpuDescription& gpu);

}  // namespace peakcast
