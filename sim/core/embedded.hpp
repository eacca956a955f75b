#pragma once

#include <span>
#include <string_view>

namespace peakcast {

/// A text file of the source tree that was compiled in (CMake: peakcast_embed).
struct EmbeddedFile {
  std::string_view name;  ///< without folder and last extension
  std::string_view text;
};

/// sim/device/gpus/*.json, in name order.
[[nodiscard]] std::span<const EmbeddedFile> embedded_gpus();
/// workloads/convolutions/*.json.
[[nodiscard]] std::span<const EmbeddedFile> embedded_convolutions();
/// workloads/configs/*.json, in name order.
[[nodiscard]] std::span<const EmbeddedFile> embedded_model_configs();
/// sim/app/evidence/recordings.csv (evidence.hpp).
[[nodiscard]] std::span<const EmbeddedFile> embedded_evidence();

}  // namespace peakcast
