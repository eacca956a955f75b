#pragma once

#include "sim/engine/cost_model.hpp"
#include "workloads/torch/runtime.hpp"

namespace peakcast {

/// What kernels and collectives take on a card, and what the host takes to issue them, for programs
/// under construction. Kernels by the card's rates (sim/engine/cost_model.hpp).
///
/// The host's figures are those of the machine that the recordings come from; another host is
/// another figure. Sources (PyTorch 2.11.0+cu130, transformers 5.17.0, Python 3.12, 2026-11-24):
/// - Ratios: batches of one sequence of 16 tokens, so that the card never holds the host up;
/// forward,
///   backward and step of BERT and Llama with 2 and with 12 layers, a layer being the difference
///   over 10: BERT-large fp32 forward 17 modules and 14 launches, backward 28 launches; Llama (512
///   wide) forward 13 modules and 37 launches, backward 60 launches; foreach AdamW per parameter,
///   fused a third of it. They give module : forward launch : backward launch = 40 : 27 : 40.
///   Native code issues casts and in-place sums in passing: 9 us (torch.zero_ from Python takes 7.4
///   us there).
/// - Checkpointing: the same batches, BERT-large, GPT-2 medium and Llama with 4 and 12 layers, a
/// layer
///   being the difference over 8 (best of 13 steps, 2026-11-26): beside the second forward 0.4, 0.5
///   and 1.0 ms forward, 0.4, 0.2 and 0.35 ms backward, for about 30, 25 and 45 saved tensors, on
///   the scale below.
/// - Scale: the recordings' own host-bound timings without recording, groundtruth/timing
///   bert_large_fused_accum4_b8_s128 (183 ms) and bert_large_bf16amp_b32_s128 (66 ms). Iterations
///   of one run differ by 25 %.
/// - Sharding: fsdp1_bert_large_w4 (135 ms) and its SHARD_GRAD_OP twin (122 ms) there, against the
///   same model alone.
class CardCosts final : public torch::CostModel {
 public:
  /// `gpu` outlives this.
  explicit CardCosts(const GpuCosts& gpu) : gpu_{gpu} {}
  [[nodiscard]] SimDuration kernel(const torch::KernelCost& cost) const override;
  [[nodiscard]] SimDuration collective(const torch::CollectiveCost& cost) const override;
  [[nodiscard]] SimDuration host(torch::HostWork work, torch::HostThread thread) const override;
  /// For comparisons with recordings whose process group did nothing: collectives take no time.
  void set_idle_links(bool idle) { idle_links_ = idle; }

 private:
  const GpuCosts& gpu_;
  bool idle_links_{};
};

}  // namespace peakcast
