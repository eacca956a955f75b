#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/core/units.hpp"
#include "workloads/gpu_traits.hpp"
#include "workloads/torch/shape.hpp"

/// Scratch memory that kernels ask the caching allocator for, from the launch arithmetic of their
/// sources. Pure functions; O(dimensions).
namespace peakcast::torch {

/// Global-memory scratch of a reduction that is split over thread blocks; zero when it is not.
struct ReductionScratch {
  Bytes partials{};  ///< allocated first
  Bytes semaphores{};
};
struct ReductionShape {
  Shape sizes{};                     ///< of the input
  Shape strides{};                   ///< of the input, in elements
  std::vector<bool> reduced{};       ///< per dimension
  std::int64_t element_bytes{};      ///< of the input
  std::int64_t accumulator_bytes{};  ///< of the type that it sums in
  std::int64_t outputs_per_sum{1};
};
/// Source: PyTorch, aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig) and TensorIterator's
/// reordering and coalescing of dimensions.
[[nodiscard]] ReductionScratch reduction_scratch(const ReductionShape& shape, const GpuTraits& gpu);

/// cub::DeviceRadixSort::SortPairs of `count` pairs (temporary storage of its one-sweep form):
/// bins, look-back, the other half of the double buffers, counters, each aligned to 256 bytes.
/// Source: CCCL 3, cub/device/dispatch/dispatch_radix_sort.cuh; the tile of 4608 pairs is what the
/// H100 recordings of PyTorch 2.11.0+cu130 give for int64 pairs (4096 to 65536 of them).
/// `key_bits`: the bits that differ, when the caller says so; 0: all of them.
[[nodiscard]] Bytes radix_sort_scratch(std::int64_t count, std::int64_t key_bytes,
                                       std::int64_t value_bytes, std::int64_t key_bits = 0);
/// cub::DeviceSelect::UniqueByKey of `count` int64 keys: a descriptor of 16 bytes a tile, 32 more
/// for padding. The H100 recordings of PyTorch 2.11.0+cu130 (4096 to 81920 keys) put the tile
/// between 4096 and 5119 keys; 512 threads of nine lie within.
[[nodiscard]] Bytes unique_scratch(std::int64_t count);

/// cumsum of one row of `count` elements, and embedding gradients' running sums: cub's scan with an
/// operator of PyTorch's own.
/// Tiles of 128 threads by 60 bytes each with a descriptor of two elements, 32 more for padding.
/// Source: CCCL 3, cub/agent/single_pass_scan_operators.cuh (ScanTileState) and the default policy
/// of cub/device/dispatch/tuning/tuning_scan.cuh; checked against recordings of 8 to 32768
/// elements.
[[nodiscard]] Bytes cumsum_scratch(std::int64_t count, std::int64_t element_bytes);

/// The order of dimensions that TensorIterator chooses, fastest first. `strides[i]` are an
/// operand's byte (or element) strides; operands that are broadcast have stride 0 there.
[[nodiscard]] std::vector<std::size_t> iteration_order(const Shape& sizes,
                                                       std::span<const Shape> strides);

}  // namespace peakcast::torch
