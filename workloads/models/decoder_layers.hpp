#pragma once

#include <cstdint>
#include <string_view>

#include "workloads/model_config.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/torch/module.hpp"

/// The parts of decoders, as Llama wrote them and its descendants share them.
/// Source: transformers 5.17, models/llama/modeling_llama.py.
namespace peakcast::models {

/// RMSNorm, written out: the input's fp32 copy, its mean square, and the product with the weight.
struct RMSNorm : torch::ModuleOf<RMSNorm> {
  RMSNorm(torch::Module* parent, std::string_view name, std::int64_t size);
  torch::Tensor forward(const torch::Tensor& input);
  torch::Tensor weight;
};

/// cos and sin of every position, [1, seq, head size] in the hidden states' type.
struct RotaryTables {
  torch::Tensor cos{};
  torch::Tensor sin{};
  torch::TensorList take_tensors() { return {std::move(cos), std::move(sin)}; }
  void put_tensors(torch::TensorList tensors) {
    cos = std::move(tensors[0]);
    sin = std::move(tensors[1]);
  }
};
struct RotaryEmbedding : torch::ModuleOf<RotaryEmbedding> {
  RotaryEmbedding(torch::Module* parent, std::string_view name, std::int64_t head_dim);
  RotaryTables forward(const torch::Tensor& hidden_states, const torch::Tensor& position_ids);
};

/// Grouped-query attention with rotary positions.
struct LlamaAttention : torch::ModuleOf<LlamaAttention> {
  LlamaAttention(torch::Module* parent, std::string_view name, const ModelConfig& c,
                 Attention kind);
  AttentionResult forward(const torch::Tensor& hidden_states, const RotaryTables& positions,
                          const torch::Tensor& mask, KeyValueCache* cache);
  torch::Linear q_proj;
  torch::Linear k_proj;
  torch::Linear v_proj;
  torch::Linear o_proj;
  std::int64_t head_dim;
  std::int64_t groups;
  double dropout_p;
  Attention implementation;
};

/// down(act(gate(x)) * up(x)).
struct LlamaMLP : torch::ModuleOf<LlamaMLP> {
  LlamaMLP(torch::Module* parent, std::string_view name, const ModelConfig& c);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Linear gate_proj;
  torch::Linear up_proj;
  torch::Linear down_proj;
  torch::FunctionModule act_fn;
};

}  // namespace peakcast::models
