#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sim/core/units.hpp"

namespace peakcast {

/// Parameters' type and autocast. fp16_amp brings a gradient scaler.
enum class Precision : std::uint8_t { fp32, bf16, fp16, bf16_amp, fp16_amp };
enum class Attention : std::uint8_t { sdpa, eager };
enum class OptimizerKind : std::uint8_t {
  adamw,
  adamw_fused,
  adamw_single,
  adam,
  sgd,
  adafactor,
  sgd_plain,  ///< without momentum
  rmsprop,
  adamw8bit,  ///< bitsandbytes' 8-bit states, as the two below
  paged_adamw8bit,
  lion8bit,
  lion,  ///< not modelled by generate(), as the next
  muon,
};
/// bitsandbytes' 4-bit weights under LoRA; 8-bit ones are not modelled by generate().
enum class Quantize : std::uint8_t { none, nf4, int8 };
/// Liger's fused linear cross entropy: logits are made in pieces and never kept.
enum class FusedLoss : std::uint8_t { none, liger };

/// peft's LoRA: rank 0 is none.
struct Lora {
  std::int64_t rank{};
  std::vector<std::string> targets{};  ///< names of linear layers; empty: all but the head
  double dropout{};
};
enum class ZeroGrad : std::uint8_t { before, after };  ///< before the forward pass, after the step
/// `every`: of some layers; `selective`: all but products and attention is computed again. Neither
/// is modelled by generate().
enum class Checkpoint : std::uint8_t { none, full, full_reentrant, every, selective };
enum class Parallel : std::uint8_t { none, ddp, fsdp1, fsdp2, zero1, zero2, zero3 };
enum class Shard : std::uint8_t { full, grad_op, hybrid, none };
enum class Prefetch : std::uint8_t { pre, post, none };
enum class ShardPrecision : std::uint8_t { same, bf16, fp16, fp32 };

/// DeepSpeed's stages.
[[nodiscard]] constexpr bool is_zero(Parallel parallel) {
  return parallel == Parallel::zero1 || parallel == Parallel::zero2 || parallel == Parallel::zero3;
}

struct BatchShape {
  std::int64_t batch{};
  std::int64_t seq{};
  friend bool operator==(const BatchShape&, const BatchShape&) = default;
};

/// One training run, as the command line describes it (design: "A run is described by").
/// Defaults are the command line's. A pure value: equal specs give equal traces.
struct RunSpec {
  std::string model{};  ///< a built-in name, a path to a Hugging Face config.json, or its text
  std::string task{};   ///< "" = from the config's `architectures`
  std::vector<std::pair<std::string, std::string>> overrides{};  ///< --set KEY=VALUE, in order
  std::vector<BatchShape> shapes{};  ///< one per iteration, cycled; not empty
  std::optional<std::int64_t> target_seq{};
  std::int64_t iterations{3};
  Precision precision{};
  Attention attention{};
  OptimizerKind optimizer{};
  ZeroGrad zero_grad{};
  std::int64_t accumulate{1};
  bool clip_grad{};
  bool dispatch_mode{};  ///< the iterations run under a TorchDispatchMode
  Checkpoint checkpoint{};
  std::int64_t checkpoint_every{1};  ///< Checkpoint::every: layers 0, n, 2n ...
  Lora lora{};
  std::string freeze{};  ///< a regular expression: parameters whose names it finds do not train
  Quantize quantize{};
  bool double_quant{true};  ///< the scales of 4-bit weights are quantised too
  FusedLoss fused_loss{};
  bool token_types{true};  ///< the batch has token_type_ids (where the model's inputs do)

  Parallel parallel{};
  std::int64_t world{1};
  std::int64_t rank{};
  Shard shard{};
  bool reshard_after_forward{true};
  ShardPrecision shard_precision{};
  ShardPrecision reduce_precision{};
  Prefetch backward_prefetch{};
  bool forward_prefetch{};
  bool limit_all_gathers{true};
  bool bucket_view{};
  std::int64_t bucket_mb{25};

  std::string framework{"pytorch-2.11"};
  std::string gpu{"h100-80g"};
  std::optional<Bytes> capacity{};  ///< overrides the card's memory
};

}  // namespace peakcast
