#include "workloads/models/attention.hpp"

namespace peakcast::models {

using torch::Tensor;

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value,
                 const AttentionCall& call) {
  return attention_with_weights(query, key, value, call).output;
}

AttentionResult attention_with_weights(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const AttentionCall& call) {
  if (call.implementation == Attention::sdpa) {
    Tensor out = torch::scaled_dot_product_attention(
        query, key, value, {call.mask, call.training ? call.dropout : 0.0, call.causal, false});
    return {std::move(out).transpose(1, 2).contiguous(), {}};
  }
  Tensor weights = torch::matmul(query, key.transpose(2, 3)) * 1.0;
  if (call.position_bias.defined()) {
    weights = weights + call.position_bias;
  }
  if (call.mask.defined()) {
    weights = weights + call.mask;
  }
  weights = torch::softmax(weights);
  weights = torch::dropout(weights, call.dropout, call.training);
  Tensor out = torch::matmul(weights, value);
  out = out.transpose(1, 2).contiguous();
  return {out, weights};
}

void check_bidirectional_mask(const Tensor& mask) {
  if (!mask.defined()) {
    return;
  }
  const torch::GradMode no_grad{false};
  const Tensor as_bool = mask.to(torch::Dtype::boolean);
  torch::item(torch::all(as_bool));
}

}  // namespace peakcast::models
