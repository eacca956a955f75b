#pragma once

#include <utility>

#include "workloads/run_spec.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::models {

/// What transformers' attention functions take. Tensors are [batch, heads, sequence, head size];
/// the result is [batch, sequence, heads, head size], contiguous.
/// Source: transformers 5.17, integrations/sdpa_attention.py and modeling_bert.py.
struct AttentionCall {
  Attention implementation{};
  double dropout{};
  bool causal{};
  bool training{true};
  torch::Tensor mask{};
  torch::Tensor position_bias{};  ///< eager only: added to the scores before the mask is
};
/// `query`, `key` and `value` are the caller's names and stay alive.
[[nodiscard]] torch::Tensor attention(const torch::Tensor& query, const torch::Tensor& key,
                                      const torch::Tensor& value, const AttentionCall& call);

/// The attention functions' whole result. The eager one also returns the (dropped-out) weights, and
/// the layers' frames hold them for a while; sdpa's are undefined.
struct AttentionResult {
  torch::Tensor output{};
  torch::Tensor weights{};
  torch::TensorList take_tensors() { return {std::move(output), std::move(weights)}; }
  void put_tensors(torch::TensorList tensors) {
    output = std::move(tensors[0]);
    weights = std::move(tensors[1]);
  }
};
[[nodiscard]] AttentionResult attention_with_weights(const torch::Tensor& query,
                                                     const torch::Tensor& key,
                                                     const torch::Tensor& value,
                                                     const AttentionCall& call);

/// The part of transformers' masking_utils that every bidirectional model runs on an all-ones mask:
/// it is cast to bool, checked, and dropped. `mask` may be undefined.
void check_bidirectional_mask(const torch::Tensor& mask);

}  // namespace peakcast::models
