#pragma once

#include <memory>
#include <vector>

#include "workloads/parallel/data_parallel.hpp"

namespace peakcast::torch {

/// torch.nn.parallel.DistributedDataParallel: shape check and broadcast at construction, one bucket
/// for the first iteration, rebuilt in the order in which gradients became ready, buffers broadcast
/// before every forward. `spec.bucket_mb` counts as given, so the first bucket has that cap as well
/// (PyTorch lowers it to 1 MiB only when bucket_cap_mb is not passed).
/// Source: PyTorch 2.11, torch/nn/parallel/distributed.py and
/// torch/csrc/distributed/c10d/reducer.cpp.
[[nodiscard]] std::unique_ptr<DataParallel> make_ddp(const RunSpec& spec, Module& model);

/// compute_bucket_assignment_by_size: tensors of one type fill a bucket until it has reached `cap`
/// bytes; it may exceed that by one tensor. Returns indices into `tensors`, a bucket each, in the
/// order in which the buckets closed; what is left over at the end follows. O(tensors).
[[nodiscard]] std::vector<std::vector<std::size_t>> buckets_by_size(const TensorList& tensors,
                                                                    Bytes cap);

}  // namespace peakcast::torch
