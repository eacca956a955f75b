#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace peakcast {

/// What kernels look up about the card when they size their scratch memory.
struct GpuTraits {
  std::int64_t multiprocessors{132};
  std::int64_t threads_per_multiprocessor{2048};
  int compute_capability{90};  ///< 10 * major + minor
};

/// By the names that `--gpu` takes; nothing for a name that is not known.
/// Source: NVIDIA's CUDA programming guide (compute capabilities) and the cards' data sheets.
[[nodiscard]] std::optional<GpuTraits> gpu_traits(std::string_view gpu);

}  // namespace peakcast
