#pragma once

#include <cstdint>

#include "workloads/torch/tensor.hpp"

namespace peakcast::models {

/// load_balancing_loss_func without a padding mask: `router_logits` holds [tokens, experts] per
/// layer. One fp32 number.
/// Source: transformers 5.17, models/mixtral/modeling_mixtral.py.
[[nodiscard]] torch::Tensor load_balancing_loss(const torch::TensorList& router_logits,
                                                std::int64_t experts,
                                                std::int64_t experts_per_token);

}  // namespace peakcast::models
