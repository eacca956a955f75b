#pragma once

#include <cstdint>
#include <string>

#include "sim/core/units.hpp"

namespace peakcast {

/// What a card does per second, and what one piece of work costs at least. Integers: rates per
/// second, floors in ns. "Sustained" is what long, well-shaped work reaches; multiply and add count
/// as two flops. A card's description has them (gpu_description.hpp).
struct GpuRates {
  std::int64_t bf16_flops_per_second{};  ///< matrices on tensor cores, sustained
  std::int64_t fp16_flops_per_second{};  ///< the same
  std::int64_t tf32_flops_per_second{};  ///< fp32 matrices with tf32 on
  /// Without tensor cores. Decides below compute capability 8.0, where these take only fp16.
  std::int64_t fp32_flops_per_second{};
  /// Device memory, read and written together, sustained.
  std::int64_t device_bytes_per_second{};
  /// The same while what is touched stays in the L2 cache: up to two thirds of it.
  std::int64_t cache_bytes_per_second{};
  std::int64_t host_to_device_bytes_per_second{};  ///< from pinned memory
  std::int64_t device_to_host_bytes_per_second{};
  /// Links between the cards of one node: per card, per direction, payload. 0: only through the
  /// host.
  std::int64_t link_bytes_per_second{};
  std::int64_t network_bytes_per_second{};  ///< between nodes, per card, per direction
  std::int64_t cards_per_node{};
  SimDuration kernel_floor{};      ///< an empty kernel, from one to the next on a stream
  SimDuration tile_overhead{};     ///< a matrix tile's prologue and epilogue, in half precision
  SimDuration link_latency{};      ///< one step of a collective inside a node
  SimDuration network_latency{};   ///< one step between nodes
  SimDuration collective_floor{};  ///< of any collective
};

}  // namespace peakcast
