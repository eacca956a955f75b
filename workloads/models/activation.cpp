#include "workloads/models/activation.hpp"

#include <utility>

#include "workloads/torch/ops.hpp"

namespace peakcast::models {

using torch::Tensor;

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::gelu:
    case Activation::gelu_tanh:
      return torch::gelu(x);
    case Activation::relu:
      return torch::relu(x);
    case Activation::silu:
      return torch::silu(x);
    case Activation::tanh:
      return torch::tanh(x);
    case Activation::gelu_new:
      break;
  }
  // NewGELUActivation, in Python's order: the left factor exists before the right one.
  Tensor half = 0.5 * x;
  Tensor right = torch::pow(x, 3.0);
  right = 0.044715 * std::move(right);
  right = x + std::move(right);
  right = 0.7978845608 * std::move(right);
  right = torch::tanh(std::move(right));
  right = std::move(right) + 1.0;
  return std::move(half) * std::move(right);
}

}  // namespace peakcast::models
