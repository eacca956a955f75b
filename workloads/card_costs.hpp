#pragma once

#include <cstdint>

#include "sim/engine/cost_model.hpp"
#include "workloads/torch/runtime.hpp"

namespace peakcast {

/// What kernels and collectives take on a card, and what the host takes to issue them, for programs
/// under construction. Kernels by the card's rates (sim/engine/cost_model.hpp).
///
/// The host's figures are those of the machine that the recordings come from; another host is
/// another figure, and this one's own runs differ by a factor of up to two from one process to the
/// next. Sources (PyTorch 2.11.0+cu130, transformers 5.17.0, Python 3.12, 2026-11-24 and -26),
/// batches of one sequence of 16 tokens, so that the card never holds the host up:
/// - Ratios. BERT and Llama with 2 and with 12 layers, a layer being the difference over 10:
///   BERT-large fp32 forward 17 modules and 14 launches, backward 28 launches; Llama (512 wide)
///   forward 13 modules and 37 launches, backward 60 launches; foreach AdamW per parameter, fused a
///   third of it. They give module : forward launch : backward launch = 40 : 27 : 40. Native code
///   issues casts and in-place sums in passing: 9 us (torch.zero_ from Python takes 7.4 us there).
/// - Checkpointing. BERT-large, GPT-2 medium and Llama with 4 and with 12 layers: beside the second
///   forward 0.4, 0.5 and 1.0 ms forward, 0.4, 0.2 and 0.35 ms backward a layer, for about 30, 25
///   and 45 saved tensors.
/// - Sharding. FSDP of the same three: 1.0 to 1.3 ms a layer forward, 1.0 to 1.6 ms backward.
/// - Scale. The middle of what host-bound runs took, alone on the card without recording, over what
///   these ratios give: groundtruth/timing (BERT-large fp32 66 to 82 ms a step, accumulating over
///   four 175 to 209 ms, DDP 65 to 86 ms, FSDP 111 to 150 ms), and T5-large, Qwen2-0.5B and FSDP2
///   alike (261 to 302, 112 to 157, 124 to 149 ms).
class CardCosts final : public torch::CostModel {
 public:
  /// `gpu` outlives this.
  explicit CardCosts(const GpuDescription& gpu) : gpu_{gpu} {}
  /// Of the host, in percent of the one above: 50 takes twice as long. > 0.
  void set_host_speed(std::int64_t percent) { host_percent_ = percent; }
  [[nodiscard]] SimDuration kernel(const torch::KernelCost& cost) const override;
  [[nodiscard]] SimDuration collective(const torch::CollectiveCost& cost) const override;
  [[nodiscard]] SimDuration host(torch::HostWork work, torch::HostThread thread) const override;
  /// For comparisons with recordings whose process group did nothing: collectives take no time.
  void set_idle_links(bool idle) { idle_links_ = idle; }

 private:
  const GpuDescription& gpu_;
  bool idle_links_{};
  std::int64_t host_percent_{100};
};

}  // namespace peakcast
