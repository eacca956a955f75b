#pragma once

#include <cstdint>
#include <string_view>

#include "workloads/model_config.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/models/decoder_traits.hpp"
#include "workloads/torch/module.hpp"

/// The parts of decoders, as Llama wrote them and its descendants vary them.
/// Source: transformers 5.17, models/llama/modeling_llama.py and those of the families' names.
namespace peakcast::models {

/// RMSNorm, written out: the input's fp32 copy, its mean square, and the product with the weight.
struct RMSNorm : torch::ModuleOf<RMSNorm> {
  RMSNorm(torch::Module* parent, std::string_view name, std::int64_t size,
          DecoderTraits::Norm norm = {});
  torch::Tensor forward(const torch::Tensor& input);
  torch::Tensor weight;
  DecoderTraits::Norm kind;
};

/// cos and sin of every position, [1, seq, rotary size].
struct RotaryTables {
  torch::Tensor cos{};
  torch::Tensor sin{};
  torch::TensorList take_tensors() { return {std::move(cos), std::move(sin)}; }
  void put_tensors(torch::TensorList tensors) {
    cos = std::move(tensors[0]);
    sin = std::move(tensors[1]);
  }
};
/// The tables of one kind of layers; of windowed layers where a family tells them apart.
struct RotaryEmbedding : torch::ModuleOf<RotaryEmbedding> {
  RotaryEmbedding(torch::Module* parent, std::string_view name, std::int64_t rotary_dim,
                  const DecoderTraits& row);
  RotaryTables forward(const torch::Tensor& hidden_states, const torch::Tensor& position_ids,
                       bool windowed);
  const DecoderTraits& traits;
};

/// apply_rotary_pos_emb: both results exist before either name is rebound.
void rotate(torch::Tensor& query, torch::Tensor& key, const RotaryTables& positions,
            DecoderTraits::Rotary rotary);

/// What a family's attention function takes beside AttentionCall.
struct DecoderAttentionCall {
  AttentionCall call{};
  std::int64_t groups{1};  ///< query heads per key head
  bool soft_cap{};
  torch::Tensor sinks{};
};
/// ALL_ATTENTION_FUNCTIONS: sdpa, or the family's eager function.
[[nodiscard]] AttentionResult decoder_attention(const torch::Tensor& query,
                                                const torch::Tensor& key,
                                                const torch::Tensor& value,
                                                const DecoderAttentionCall& call);

/// Grouped-query attention with rotary positions.
struct DecoderAttention : torch::ModuleOf<DecoderAttention> {
  /// `rotary`: whether this layer has positions.
  DecoderAttention(torch::Module* parent, std::string_view name, const ModelConfig& c,
                   Attention kind, bool rotary);
  AttentionResult forward(const torch::Tensor& hidden_states, const RotaryTables& positions,
                          const torch::Tensor& mask, KeyValueCache* cache);

 private:
  void project(const torch::Tensor& hidden_states, torch::Tensor& query, torch::Tensor& key,
               torch::Tensor& value, torch::Tensor& fused);
  const ModelConfig& config_;
  const DecoderTraits& traits_;
  std::unique_ptr<torch::Linear> q_proj_{};
  std::unique_ptr<torch::Linear> k_proj_{};
  std::unique_ptr<torch::Linear> v_proj_{};
  std::unique_ptr<torch::Linear> o_proj_{};
  std::unique_ptr<torch::Linear> qkv_proj_{};
  std::unique_ptr<RMSNorm> q_norm_{};
  std::unique_ptr<RMSNorm> k_norm_{};
  torch::Tensor sinks_{};
  Attention implementation_;
  bool rotary_;
};

/// down(act(gate(x)) * up(x)).
struct GatedMLP : torch::ModuleOf<GatedMLP> {
  GatedMLP(torch::Module* parent, std::string_view name, const ModelConfig& c, std::int64_t width);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Linear gate_proj;
  torch::Linear up_proj;
  torch::Linear down_proj;
  torch::FunctionModule act_fn;
};

/// The same with gate and up in one projection.
struct FusedGatedMLP : torch::ModuleOf<FusedGatedMLP> {
  FusedGatedMLP(torch::Module* parent, std::string_view name, const ModelConfig& c);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Linear gate_up_proj;
  torch::Linear down_proj;
  torch::FunctionModule activation_fn;
};

}  // namespace peakcast::models
