#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

/// When a row of the table of memory outside every allocator counts.
enum class OutsideWhen : std::uint8_t {
  always,
  cudnn_attention,  ///< attention runs in cuDNN: its handle and the kernels it builds
  sharding,         ///< FSDP: further streams and the kernels that copy and cast shards
  ddp,              ///< DDP on two ranks or more
  zero_1_2,         ///< DeepSpeed's ZeRO, stages 1 and 2
  zero_3,           ///< stage 3
  nccl_one_rank,    ///< an NCCL communicator of one rank
  nccl,             ///< an NCCL communicator of two ranks or more
};

[[nodiscard]] std::string_view to_string(OutsideWhen when);

/// Device memory that no allocator sees, with where the figure comes from.
struct OutsideItem {
  std::string item{};
  OutsideWhen when{};
  Bytes size{};
  bool measured{};       ///< on this card; false: another card's figure
  std::string source{};  ///< device, driver, versions, how to measure it again
};

/// A card, from sim/device/gpus/NAME.json or a file of the same form. Keys: name, card,
/// total_bytes, granularity_bytes, compute_major, compute_minor, multiprocessors, outside [{item,
/// when, bytes, measured, source}], and optionally total_source and costs_like (the card whose
/// rates are taken). What `peakcast-cuda-check device` writes is read too: its context_bytes is the
/// measured context, the rows it has no figure for are h100-80g's.
struct GpuDescription {
  std::string name{};
  DeviceSpec spec{};
  std::string total_source{};
  std::string costs_like{};        ///< a name of gpu_costs()
  std::int64_t multiprocessors{};  ///< kernels size their scratch memory by these two
  std::int64_t threads_per_multiprocessor{};
  std::vector<OutsideItem> outside{};
};

/// What a run loads on the card.
struct OutsideUse {
  bool cudnn_attention{};
  /// sharding, ddp, zero_1_2 or zero_3; always: none of them
  OutsideWhen parallel{OutsideWhen::always};
  std::int64_t nccl_ranks{};  ///< 0: no NCCL
};

/// The rows that count for `use`, in the table's order.
[[nodiscard]] std::vector<OutsideItem> outside_items(const GpuDescription& gpu,
                                                     const OutsideUse& use);

[[nodiscard]] Expected<GpuDescription> parse_gpu_description(std::string_view json,
                                                             const std::string& file);
/// `gpu` is a name of embedded_gpus() or a file's path.
[[nodiscard]] Expected<GpuDescription> load_gpu_description(const std::string& gpu);

}  // namespace peakcast
