#pragma once

#include "workloads/model_config.hpp"
#include "workloads/torch/tensor.hpp"

namespace peakcast::models {

/// ACT2FN. `x` is the caller's name.
/// Source: transformers 5.17, activations.py.
[[nodiscard]] torch::Tensor activate(Activation activation, const torch::Tensor& x);

}  // namespace peakcast::models
