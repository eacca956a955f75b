#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "workloads/parallel/data_parallel.hpp"

namespace peakcast::torch {

/// DeepSpeed's ZeRO stages with its default settings: reduce and all-gather buckets of 5e8
/// elements, prefetch 5e7, persistence threshold 1e5, 1e9 live parameters, reuse distance 1e9,
/// contiguous gradients, communication overlapped in stage 3 only. Stage 1 and 2: one flat buffer
/// of all parameters, fp32 masters and optimizer state of this rank's partition, a bucket that
/// gradients are copied into. Stage 3: every parameter in shards, gathered before its module runs
/// and released after. Source: DeepSpeed master edaa72212,
/// deepspeed/runtime/zero/{stage_1_and_2,stage3,
/// partition_parameters,partitioned_param_coordinator}.py, from the training-memory reference,
/// section 16. No recording checks this: the figures are by rule.
[[nodiscard]] std::unique_ptr<DataParallel> make_zero(const RunSpec& spec, Module& model);

// -- for the stages -------------------------------------------------------------------------------

inline constexpr std::int64_t kReduceBucket = 500'000'000;  ///< reduce_bucket_size, in elements

[[nodiscard]] std::unique_ptr<DataParallel> make_zero12(const RunSpec& spec, Module& model);
[[nodiscard]] std::unique_ptr<DataParallel> make_zero3(const RunSpec& spec, Module& model);

/// The type in which each parameter's gradient travels: its own, but under torch_autocast the
/// lower one for the parameters of linear and convolution modules.
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/torch_autocast.py.
[[nodiscard]] std::vector<Dtype> communication_types(const RunSpec& spec, Module& model,
                                                     const TensorList& parameters);

}  // namespace peakcast::torch
