#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "workloads/parallel/data_parallel.hpp"

namespace peakcast::torch {

/// deepspeed.initialize(model, optimizer, config): DeepSpeed's engine with ZeRO's stage 1, 2 or 3
/// around a model made on the host, and the script's loop in the engine's words
/// (engine(**data), engine.backward(loss), engine.step()).
///
/// What the run's flags become:
/// - the optimizer is the script's, over this rank's fp32 masters (zero_allow_untested_optimizer);
/// - precision bf16 or fp16 is DeepSpeed's own (bf16: {enabled}, fp16: {enabled}; no step
///   overflows): parameters are cast, buffers stay, masters are fp32. bf16_amp is torch_autocast;
/// - accumulate is gradient_accumulation_steps, of which step() acts on the last;
/// - all else is DeepSpeed's default: gradient_clipping 1.0 (also without clip_grad), buckets of
///   5e8 elements for reducing, prefetch of 5e7, parameters of up to 1e5 elements persist, 1e9 live
///   parameters, reuse distance 1e9, sub-groups of 1e9, contiguous gradients, communication
///   overlapped at stage 3 only, the memory-efficient linear function at stage 3.
///
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/engine.py, zero/{stage_1_and_2,stage3,
/// partition_parameters,parameter_offload,partitioned_param_coordinator,linear}.py. Recorded on two
/// H200 on 2026-11-26, every allocation and free of both ranks in order: stages 1 to 3; bf16, fp16,
/// fp32 and torch_autocast; with accumulation and checkpointing. By rule only: more than two ranks,
/// several sub-groups, gradients larger than a bucket, reentrant checkpointing (stages 1 and 2).
/// The cost grows with the ranks where gradients are cut: every rank's piece is looked at.
/// Left out: at stage 3 the constructors print every parameter, with scratch below 1 KiB each.
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
