#pragma once

#include <functional>

#include "workloads/torch/autograd.hpp"

namespace peakcast::torch {

/// torch.utils.checkpoint.checkpoint(function, *arguments). `function` must depend on nothing else
/// that changes. `use_reentrant` picks the older kind: a node that runs a nested backward.
[[nodiscard]] Tensor checkpoint(std::function<Tensor(const TensorList&)> function,
                                TensorList arguments, bool use_reentrant);

/// The same for functions of several results; undefined tensors may be among arguments and results.
[[nodiscard]] TensorList checkpoint_many(
    const std::function<TensorList(const TensorList&)>& function, TensorList arguments,
    bool use_reentrant);

}  // namespace peakcast::torch
