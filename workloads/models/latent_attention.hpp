#pragma once

#include <memory>
#include <string_view>

#include "workloads/models/decoder_layers.hpp"

namespace peakcast::models {

/// DeepSeek's multi-headed latent attention: queries, keys and values go through narrow latents;
/// one rotary key is shared by all heads.
/// Source: transformers 5.17, models/deepseek_v3/modeling_deepseek_v3.py.
struct LatentAttention : torch::ModuleOf<LatentAttention> {
  LatentAttention(torch::Module* parent, std::string_view name, const ModelConfig& c,
                  Attention kind);
  AttentionResult forward(const torch::Tensor& hidden_states, const RotaryTables& positions,
                          const torch::Tensor& mask, KeyValueCache* cache);

 private:
  void expand(const torch::Tensor& latent, const torch::Tensor& rotary_key, torch::Tensor& keys,
              torch::Tensor& values);
  const ModelConfig& config_;
  std::unique_ptr<torch::Linear> q_proj_{};    ///< either this
  std::unique_ptr<torch::Linear> q_a_proj_{};  ///< or these three
  std::unique_ptr<RMSNorm> q_a_layernorm_{};
  std::unique_ptr<torch::Linear> q_b_proj_{};
  std::unique_ptr<torch::Linear> kv_a_proj_{};
  std::unique_ptr<RMSNorm> kv_a_layernorm_{};
  std::unique_ptr<torch::Linear> kv_b_proj_{};
  std::unique_ptr<torch::Linear> o_proj_{};
  Attention implementation_;
};

}  // namespace peakcast::models
