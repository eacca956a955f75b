#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string_view>

#include "sim/core/units.hpp"

namespace peakcast {

/// What one kind of card does per second, and what one piece of work costs at least. Integers:
/// rates per second, floors in ns. "Sustained" is what long, well-shaped work reaches.
struct GpuCosts {
  std::string_view name;  ///< as in `peakcast gpus`
  std::int64_t multiprocessors{};
  std::int64_t half_flops_per_second{};    ///< bf16 and fp16 on tensor cores, sustained
  std::int64_t tf32_flops_per_second{};    ///< fp32 matrices with tf32 on (else as `single`)
  std::int64_t single_flops_per_second{};  ///< fp32 without tensor cores, sustained
  std::int64_t memory_bytes_per_second{};  ///< device memory, sustained
  std::int64_t cache_bytes_per_second{};   ///< while what is touched stays in the L2 cache: up
                                           ///< to two thirds of it
  std::int64_t cache_bytes{};
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
  std::string_view source;
};

/// All known cards, in name order.
[[nodiscard]] std::span<const GpuCosts> gpu_costs();
/// Null when the card is not in the table.
[[nodiscard]] const GpuCosts* find_gpu_costs(std::string_view name);

enum class MathUnit : std::uint8_t { half, tf32, single };

/// `batch` products of [m x k] with [k x n].
struct Matmul {
  std::int64_t m{};
  std::int64_t n{};
  std::int64_t k{};
  std::int64_t batch{1};
  MathUnit unit{};
  std::int64_t element_bytes{4};
  /// The worst alignment among the three operands' rows, in bytes: 16 when every contiguous row
  /// length is a multiple of 16 bytes.
  std::int64_t row_alignment{16};
  /// Both operands run along their other dimension (the gradient of a weight).
  bool inner_strided{};
};

/// Scaled-dot-product attention in one kernel. Multiply and add count as two flops.
struct AttentionWork {
  std::int64_t batch{};
  std::int64_t heads{};
  std::int64_t query_length{};
  std::int64_t key_length{};
  std::int64_t head_dim{};
  std::int64_t element_bytes{2};
  bool causal{};   ///< only half of the scores are computed
  bool dropout{};  ///< random numbers are drawn per score
  bool backward{};
  friend auto operator<=>(const AttentionWork&, const AttentionWork&) = default;
};

enum class Collective : std::uint8_t { all_reduce, all_gather, reduce_scatter, broadcast };

/// `bytes` is the whole tensor: what every rank has after an all-gather or before a reduce-scatter.
struct CollectiveWork {
  Collective kind{};
  Bytes bytes{};
  std::int64_t ranks{1};
};

/// Device time of pieces of work. Every duration is rounded up to a whole ns; products go through
/// 128 bits. O(1), pure.
///
/// Sources. Elementwise: bytes over bandwidth (the roofline of Williams et al. 2009) above the
/// floor. Matrices: output tiles in waves over the multiprocessors (NVIDIA, "Matrix Multiplication
/// Background User's Guide", sections on tile and wave quantization). Collectives: ring algorithm,
/// as in NCCL's performance document (bus bandwidth: all-reduce moves 2(n-1)/n of the bytes,
/// all-gather and reduce-scatter (n-1)/n).
[[nodiscard]] SimDuration streaming_time(const GpuCosts& gpu, Bytes moved);
/// Work that the arithmetic of addresses bounds: `per_second` elements on each multiprocessor.
[[nodiscard]] SimDuration indexing_time(const GpuCosts& gpu, std::int64_t elements,
                                        std::int64_t per_second);
[[nodiscard]] SimDuration matmul_time(const GpuCosts& gpu, const Matmul& work);
[[nodiscard]] SimDuration attention_time(const GpuCosts& gpu, const AttentionWork& work);
[[nodiscard]] SimDuration collective_time(const GpuCosts& gpu, const CollectiveWork& work);

}  // namespace peakcast
