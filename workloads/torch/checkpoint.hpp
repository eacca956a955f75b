#pragma once

#include <functional>

#include "workloads/torch/autograd.hpp"

namespace peakcast::torch {

/// torch.utils.checkpoint.checkpoint(function, *arguments). `function` must depend on nothing else
/// that changes. `reentrant` picks the older kind: a node that runs a nested backward.
[[nodiscard]] Tensor checkpoint(std::function<Tensor(const TensorList&)> function, TensorList arguments,
                                bool reentrant);

}  // namespace peakcast::torch
