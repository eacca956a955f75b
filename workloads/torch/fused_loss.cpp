#include <algorithm>
#include <bit>

#include "workloads/torch/ops.hpp"

/// Liger's fused linear cross entropy.
/// Source: liger-kernel 0.8.5, liger_kernel/ops/fused_linear_cross_entropy.py; order and sizes as
/// an H200 recorded them (2026-11-29).
namespace peakcast::torch {
namespace {

/// Both gradients were made in the forward pass; the backward compares the arriving one with 1.
struct FusedLossBackward final : Node {
  [[nodiscard]] const char* name() const override { return "LigerFusedLinearCrossEntropyFunction"; }
  TensorList apply(TensorList& grads) override {
    {
      const OpScope scope{"equal"};
      const Tensor one = empty({}, Dtype::float32);
      const Tensor same = pointwise("eq", {&grads[0], &one}, Dtype::boolean);
      item(all(same));
    }
    return {std::move(input_grad), std::move(weight_grad)};
  }
  void release_variables() override {
    input_grad.reset();
    weight_grad.reset();
  }
  Tensor input_grad{};
  Tensor weight_grad{};
};

/// Rows of logits that are made at a time: as many as make a chunk about as large as the input.
std::int64_t rows_per_chunk(std::int64_t rows, std::int64_t width, std::int64_t classes) {
  const std::int64_t factor = (classes + width - 1) / width;
  const std::int64_t wanted = (rows + factor - 1) / factor;
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(wanted)));
}

void launch_product(const Tensor& logits, std::int64_t inner) {
  KernelCost cost{.kind = KernelCost::Kind::matmul,
                  .dtype = logits.dtype(),
                  .flops = 2 * logits.numel() * inner,
                  .bytes = logits.nbytes().count()};
  cost.matmul = {.m = logits.size(0), .n = logits.size(1), .k = inner, .batch = 1};
  Runtime::current().launch(cost);
}

}  // namespace

Tensor fused_linear_cross_entropy(Tensor input_argument, Tensor weight_argument,
                                  Tensor target_argument) {
  const Tensor target = std::move(target_argument);
  const Tensor weight = std::move(weight_argument);
  const Tensor input = std::move(input_argument);
  const OpScope scope{"liger_fused_linear_cross_entropy"};
  const auto node = make_node<FusedLossBackward>({&input, &weight});
  const GradMode no_grad{false};
  const std::int64_t rows = input.size(0);
  const std::int64_t width = input.size(1);
  const std::int64_t classes = weight.size(0);
  Tensor input_grad = empty_like(input);
  Tensor weight_grad = node && node->wants(1) ? empty_like(weight) : Tensor{};
  Tensor losses = empty({rows}, Dtype::float32);
  Tensor counted = pointwise("ne", {&target}, Dtype::boolean);
  {
    const Tensor count = empty({}, Dtype::int64);
    const Tensor widened = counted.to(Dtype::int64);
    item(count);
  }
  const std::int64_t chunk = std::min(rows, rows_per_chunk(rows, width, classes));
  {
    const Tensor logits = empty({chunk, classes}, input.dtype());
    Runtime::current().libraries.use_cublas(false);
    for (std::int64_t at = 0; at < rows; at += chunk) {
      launch_product(logits, width);
      launch_product(logits, width);
      if (weight_grad.defined()) {
        Tensor piece = empty_like(weight);
        launch_product(logits, width);
        piece = piece.to(Dtype::float32);
        in_place("add_", weight_grad, {&piece});
      }
    }
  }
  Tensor loss = sum(losses, {}, false);
  counted.reset();
  losses.reset();
  loss = with_history(std::move(loss), node);
  if (node) {
    node->input_grad = std::move(input_grad);
    node->weight_grad = std::move(weight_grad);
  }
  return loss;
}

}  // namespace peakcast::torch
