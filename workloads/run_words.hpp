#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "workloads/run_spec.hpp"

namespace peakcast {

// The command line's words for run_spec.hpp's values: flags, echoes and messages all read these
// tables. A value that is added there is added here; word_of() of one without a word is "?".

template <class T>
using Word = std::pair<std::string_view, T>;

inline constexpr std::array<Word<Precision>, 5> kPrecisionWords{{
    {"fp32", Precision::fp32},
    {"bf16", Precision::bf16},
    {"fp16", Precision::fp16},
    {"bf16-amp", Precision::bf16_amp},
    {"fp16-amp", Precision::fp16_amp},
}};
inline constexpr std::array<Word<Attention>, 2> kAttentionWords{{
    {"sdpa", Attention::sdpa},
    {"eager", Attention::eager},
}};
inline constexpr std::array<Word<OptimizerKind>, 13> kOptimizerWords{{
    {"adamw", OptimizerKind::adamw},
    {"adamw-fused", OptimizerKind::adamw_fused},
    {"adamw-single", OptimizerKind::adamw_single},
    {"adam", OptimizerKind::adam},
    {"sgd", OptimizerKind::sgd},
    {"adafactor", OptimizerKind::adafactor},
    {"sgd-plain", OptimizerKind::sgd_plain},
    {"rmsprop", OptimizerKind::rmsprop},
    {"adamw8bit", OptimizerKind::adamw8bit},
    {"paged-adamw8bit", OptimizerKind::paged_adamw8bit},
    {"lion8bit", OptimizerKind::lion8bit},
    {"lion", OptimizerKind::lion},
    {"muon", OptimizerKind::muon},
}};
inline constexpr std::array<Word<ZeroGrad>, 2> kZeroGradWords{{
    {"before", ZeroGrad::before},
    {"after", ZeroGrad::after},
}};
inline constexpr std::array<Word<Checkpoint>, 4> kCheckpointWords{{
    {"none", Checkpoint::none},
    {"full", Checkpoint::full},
    {"full-reentrant", Checkpoint::full_reentrant},
    {"selective", Checkpoint::selective},  // and "every-N"
}};
inline constexpr std::array<Word<Parallel>, 7> kParallelWords{{
    {"none", Parallel::none},
    {"ddp", Parallel::ddp},
    {"fsdp1", Parallel::fsdp1},
    {"fsdp2", Parallel::fsdp2},
    {"zero1", Parallel::zero1},
    {"zero2", Parallel::zero2},
    {"zero3", Parallel::zero3},
}};
inline constexpr std::array<Word<Shard>, 4> kShardWords{{
    {"full", Shard::full},
    {"grad-op", Shard::grad_op},
    {"hybrid", Shard::hybrid},
    {"none", Shard::none},
}};
inline constexpr std::array<Word<Prefetch>, 3> kPrefetchWords{{
    {"pre", Prefetch::pre},
    {"post", Prefetch::post},
    {"none", Prefetch::none},
}};
inline constexpr std::array<Word<ShardPrecision>, 4> kShardPrecisionWords{{
    {"same", ShardPrecision::same},
    {"bf16", ShardPrecision::bf16},
    {"fp16", ShardPrecision::fp16},
    {"fp32", ShardPrecision::fp32},
}};

inline constexpr std::array<Word<Quantize>, 3> kQuantizeWords{{
    {"none", Quantize::none},
    {"nf4", Quantize::nf4},
    {"int8", Quantize::int8},
}};
inline constexpr std::array<Word<FusedLoss>, 2> kFusedLossWords{{
    {"none", FusedLoss::none},
    {"liger", FusedLoss::liger},
}};

constexpr const auto& words_of(Precision) { return kPrecisionWords; }
constexpr const auto& words_of(Attention) { return kAttentionWords; }
constexpr const auto& words_of(OptimizerKind) { return kOptimizerWords; }
constexpr const auto& words_of(ZeroGrad) { return kZeroGradWords; }
constexpr const auto& words_of(Checkpoint) { return kCheckpointWords; }
constexpr const auto& words_of(Parallel) { return kParallelWords; }
constexpr const auto& words_of(Shard) { return kShardWords; }
constexpr const auto& words_of(Prefetch) { return kPrefetchWords; }
constexpr const auto& words_of(ShardPrecision) { return kShardPrecisionWords; }

constexpr const auto& words_of(Quantize) { return kQuantizeWords; }
constexpr const auto& words_of(FusedLoss) { return kFusedLossWords; }

template <class T>
constexpr std::string_view word_of(T value) {
  for (const auto& [word, meant] : words_of(value)) {
    if (meant == value) {
      return word;
    }
  }
  return "?";
}

}  // namespace peakcast
