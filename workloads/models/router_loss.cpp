#include "workloads/models/router_loss.hpp"

#include <utility>

#include "workloads/torch/ops.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::Locals;
using torch::Tensor;

/// torch.bincount(selected.reshape(-1), minlength=experts).float(): the least and the greatest
/// value come to the host first.
Tensor assignments(const Tensor& selected, std::int64_t experts) {
  const torch::GradMode no_grad{false};
  {
    const torch::OpScope scope{"bincount", {&selected}};
    torch::empty({}, Dtype::int64).reset();
    torch::empty({}, Dtype::int64).reset();
  }
  const Tensor counts = torch::empty({experts}, Dtype::int64);
  return counts.to(Dtype::float32);
}

}  // namespace

Tensor load_balancing_loss(const torch::TensorList& router_logits, std::int64_t experts,
                           std::int64_t experts_per_token) {
  Locals locals;
  Tensor& tokens_per_expert_sum = locals.add(torch::empty({experts}, Dtype::float32));
  Tensor& router_prob_sum = locals.add(torch::empty({experts}, Dtype::float32));
  Tensor& routing_weights = locals.add();
  Tensor& values = locals.add();  // Python's "_"
  Tensor& selected_experts = locals.add();
  Tensor& tokens_per_expert = locals.add();
  Tensor& router_prob_per_expert = locals.add();
  Tensor& overall_loss = locals.add();
  for (const Tensor& layer_gate : router_logits) {
    routing_weights = torch::softmax(layer_gate);
    {
      torch::Selected selected = torch::topk(routing_weights, experts_per_token);
      values = std::move(selected.values);
      selected_experts = std::move(selected.indices);
    }
    tokens_per_expert_sum = tokens_per_expert_sum + assignments(selected_experts, experts);
    router_prob_sum = router_prob_sum + torch::sum(routing_weights.to(Dtype::float32), {0}, false);
  }
  tokens_per_expert = tokens_per_expert_sum / 1.0;
  router_prob_per_expert = router_prob_sum / 1.0;
  overall_loss = torch::sum(tokens_per_expert * router_prob_per_expert.unsqueeze(0), {}, false);
  return overall_loss * 1.0;
}

}  // namespace peakcast::models
