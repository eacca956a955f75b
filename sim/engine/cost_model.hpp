#pragma once

#include <compare>
#include <cstdint>

#include "sim/core/units.hpp"

namespace peakcast {

struct GpuDescription;

/// What multiplies: tensor cores in one of three types, or the fp32 units.
enum class MathUnit : std::uint8_t { bf16, fp16, tf32, single };

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
  MathUnit unit{};  ///< fp32 attention runs in tf32
  bool causal{};    ///< only half of the scores are computed
  bool dropout{};   ///< random numbers are drawn per score
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

enum class HostCopy : bool { to_device, to_host };

/// Device time of pieces of work. Every duration is rounded up to a whole ns; products go through
/// 128 bits. O(1), pure.
///
/// Sources. Elementwise: bytes over bandwidth (the roofline of Williams et al. 2009) above the
/// floor. Matrices: output tiles in waves over the multiprocessors (NVIDIA, "Matrix Multiplication
/// Background User's Guide", sections on tile and wave quantization). Collectives: ring algorithm,
/// as in NCCL's performance document (bus bandwidth: all-reduce moves 2(n-1)/n of the bytes,
/// all-gather and reduce-scatter (n-1)/n).
[[nodiscard]] SimDuration streaming_time(const GpuDescription& gpu, Bytes moved);
/// A copy between host and card, from or to pinned memory: pageable memory is slower.
[[nodiscard]] SimDuration host_copy_time(const GpuDescription& gpu, HostCopy direction,
                                         Bytes moved);
/// Work that the arithmetic of addresses bounds: `per_second` elements on each multiprocessor.
[[nodiscard]] SimDuration indexing_time(const GpuDescription& gpu, std::int64_t elements,
                                        std::int64_t per_second);
[[nodiscard]] SimDuration matmul_time(const GpuDescription& gpu, const Matmul& work);
[[nodiscard]] SimDuration attention_time(const GpuDescription& gpu, const AttentionWork& work);
[[nodiscard]] SimDuration collective_time(const GpuDescription& gpu, const CollectiveWork& work);

}  // namespace peakcast
