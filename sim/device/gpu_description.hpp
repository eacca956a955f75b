#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/device/device.hpp"
#include "sim/device/driver_costs.hpp"
#include "sim/device/gpu_rates.hpp"
#include "sim/device/outside.hpp"

namespace peakcast {

/// Where a group of figures comes from.
struct FigureSource {
  bool measured{};     ///< every one of them, on this card
  std::string text{};  ///< device, driver, versions, how to measure it again
};

/// A card: all that is known of it, from sim/device/gpus/NAME.json or a file of the same form, and
/// nothing about a card lies elsewhere. Its keys; what may be absent is borrowed from another card
/// and says so in its source; unknown ones are an error:
///
/// - `name`, `card`: as `--gpu` takes it, and as the driver names it.
/// - `total_bytes` (required), `total_source`: what the driver reports as its memory, and who says
///   so. `total_range_bytes`: [least, most] that drivers report; absent where it was measured.
/// - `compute_major`, `compute_minor`, `multiprocessors` (required), `threads_per_multiprocessor`
///   (absent: by compute capability), `l2_cache_bytes`.
/// - `granularity_bytes` (2 MiB: no card has another), `shared_page_limit_bytes`, `unusable_bytes`.
/// - `rates`, `driver_costs`: the figures of gpu_fields.hpp, `measured` and `source`.
/// - `outside`: [{`item`, `when`, `bytes`, `measured`, `source`}], every row. `context_bytes` and
///   `context_source` stand for a measured row `context`.
/// - `costs_like`: the built-in card to borrow from; h100-80g unless given.
/// - `measured`: how it was measured and what else was. Decides nothing.
///
/// `gpus NAME --format json` and `peakcast-cuda-check device` write this form.
struct GpuDescription {
  std::string name{};
  DeviceSpec spec{};
  std::string total_source{};
  Bytes total_least{};  ///< what drivers report as the card's memory; both are spec.total where it
  Bytes total_most{};   ///< was measured
  std::int64_t multiprocessors{};  ///< kernels size their scratch memory by these two
  std::int64_t threads_per_multiprocessor{};
  Bytes shared_page_limit{};  ///< the largest request of cudaMalloc that shares a page
  Bytes unusable{};           ///< what the driver calls free when no further page can be had
  Bytes l2_cache{};
  GpuRates rates{};
  FigureSource rates_source{};
  DriverCosts driver_costs{};
  FigureSource driver_source{};
  std::vector<OutsideItem> outside{};

  /// Whole pages of `unusable`: what the card keeps for itself, whatever its size.
  [[nodiscard]] Bytes kept() const {
    return Bytes{unusable.count() / spec.granularity.count() * spec.granularity.count()};
  }
};

/// The rows that count for `use`, in the table's order.
[[nodiscard]] std::vector<OutsideItem> outside_items(const GpuDescription& gpu,
                                                     const OutsideUse& use);

[[nodiscard]] Expected<GpuDescription> parse_gpu_description(std::string_view json,
                                                             const std::string& file);
/// `gpu` is a name of embedded_gpus() or a file's path; where it is neither, a name as people write
/// it ("RTX 4090", "nvidia-h100-80gb", what the driver reports) if only one card can be meant.
[[nodiscard]] Expected<GpuDescription> load_gpu_description(const std::string& gpu);

/// The card that the recordings come from and whose figures stand in where another has none:
/// h100-80g. Read once.
[[nodiscard]] const GpuDescription& reference_gpu();

}  // namespace peakcast
