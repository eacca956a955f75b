#pragma once

#include <cstdint>

#include "sim/core/units.hpp"
#include "sim/engine/cost_model.hpp"
#include "workloads/torch/dtype.hpp"

/// What a program under construction says of its work, for a model of what it takes.
namespace peakcast::torch {

/// Which host thread runs: backward nodes run on the device's own thread, and cuBLAS keeps a handle
/// (with a workspace per stream) for each.
enum class HostThread : std::uint8_t { main, autograd };

/// What one kernel (or call of several) does, for a cost model. Bytes are device traffic read plus
/// written; no duration is decided here.
struct KernelCost {
  enum class Kind : std::uint8_t {
    elementwise,
    reduction,         ///< along rows
    column_reduction,  ///< along another dimension than the last
    matmul,
    attention,
    copy,
    to_device,  ///< from the host
    to_host
  };
  /// How an elementwise kernel reads: in order with wide loads, in order with conversions on the
  /// way, or element by element because an operand is broadcast or strided.
  enum class Access : std::uint8_t { vectorized, converting, indexed };
  Kind kind{};
  Dtype dtype{};  ///< what it computes in
  std::int64_t flops{};
  std::int64_t bytes{};
  std::int64_t kernels{1};    ///< that share this work
  Access access{};            ///< elementwise, copy
  std::int64_t elements{};    ///< of the result; elementwise and copy
  bool from_native{};         ///< issued by native code in passing: casts, sums of gradients
  Matmul matmul{};            ///< matmul: its shape
  AttentionWork attention{};  ///< attention: its shape
};
/// Where PyTorch multiplies tensors of this type: tf32 is on.
[[nodiscard]] constexpr MathUnit math_unit(Dtype dtype) {
  return dtype == Dtype::bfloat16  ? MathUnit::bf16
         : dtype == Dtype::float16 ? MathUnit::fp16
                                   : MathUnit::tf32;
}

/// What the host does around kernels.
enum class HostWork : std::uint8_t {
  op,              ///< an operator or a node of the backward, up to and with its launch
  native_op,       ///< one that native code issues in passing
  kernel_load,     ///< an operator's first launch: its kernels are loaded (CUDA's lazy loading)
  module_call,     ///< nn.Module.__call__ and the Python of its forward
  saved_hook,      ///< a Python hook on one saved tensor, and its share of what makes a checkpoint
  backward_call,   ///< Tensor.backward() wakes the device's own thread
  graph_node,      ///< one node is counted before a backward pass, or destroyed
  attention_plan,  ///< cuDNN builds an execution plan
  parameter,       ///< one parameter's share of a foreach optimizer's step
  shard_view,      ///< FSDP points one parameter at other data
  shard_hook,      ///< one of FSDP's or DDP's hooks, or one collective's call
};
/// A collective as the cost model sees it; `bytes` is the size of the full (gathered) buffer.
struct CollectiveCost {
  enum class Kind : std::uint8_t { all_reduce, all_gather, reduce_scatter, broadcast };
  Kind kind{};
  std::int64_t world{};
  std::int64_t bytes{};
};
/// Turns costs into nanoseconds. Pure; borrowed by the Runtime. Without one no launch is emitted.
class CostModel {
 public:
  virtual ~CostModel() = default;
  [[nodiscard]] virtual SimDuration kernel(const KernelCost& cost) const = 0;
  [[nodiscard]] virtual SimDuration collective(const CollectiveCost& cost) const = 0;
  /// Host time of one such piece of work on that thread.
  [[nodiscard]] virtual SimDuration host(HostWork work, HostThread thread) const = 0;
};

}  // namespace peakcast::torch
