#pragma once

#include <memory>

#include "workloads/parallel/data_parallel.hpp"

namespace peakcast::torch {

/// fully_shard() of every transformer layer and then of the root: a sharded tensor per parameter,
/// all-gathers with copy-in and copy-out, reduce-scatters with one input always held, no
/// record_stream anywhere.
/// Source: PyTorch 2.11, torch/distributed/fsdp/_fully_shard/.
[[nodiscard]] std::unique_ptr<DataParallel> make_fsdp2(const RunSpec& spec, Module& model);

/// Bytes of the index that torch.split_with_sizes_copy(out=...) brings to the device: addresses and
/// sizes per piece, and the piece of every block of its jagged grid.
/// `piece_bytes`: one rank's bytes of each piece. Source: aten/src/ATen/native/cuda/TensorShape.cu.
[[nodiscard]] Bytes split_copy_index_bytes(const std::vector<std::int64_t>& piece_bytes,
                                           std::int64_t ranks, const GpuTraits& gpu);
/// The same of torch._chunk_cat(out=...). `chunk_bytes`: one rank's padded bytes of each tensor in
/// the output's type.
[[nodiscard]] Bytes chunk_cat_index_bytes(const std::vector<std::int64_t>& chunk_bytes);

}  // namespace peakcast::torch
