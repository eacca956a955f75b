#include "workloads/torch/convolution_workspaces.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

/// A product of the patches with the kernels, and the copies into and out of the workspace.
void launch(const ConvolutionShape& shape, Dtype dtype, const Tensor& workspace) {
  KernelCost cost{.kind = KernelCost::Kind::matmul, .dtype = dtype};
  cost.matmul = {.m = shape.batch * shape.patches,
                 .n = shape.out_channels,
                 .k = shape.in_channels * shape.window,
                 .unit = math_unit(dtype),
                 .element_bytes = element_size(dtype)};
  cost.flops = 2 * cost.matmul.m * cost.matmul.n * cost.matmul.k;
  Runtime::current().launch(cost);
  Runtime::current().launch({.kind = KernelCost::Kind::copy,
                             .dtype = dtype,
                             .bytes = 2 * workspace.nbytes().count(),
                             .from_native = true});
}

struct ConvolutionBackward final : Node {
  explicit ConvolutionBackward(const ConvolutionShape& dimensions) : shape{dimensions} {}
  [[nodiscard]] const char* name() const override { return "ConvolutionBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(3);
    const Tensor saved_input = input.unpack();
    const Tensor saved_weight = weight.unpack();
    const OpScope scope{"convolution_backward"};
    check(!wants(0), "the gradient of an image is not described");
    if (wants(1)) {
      const Tensor grad = grads[0].contiguous();
      out[1] = empty_like(saved_weight);
      const Tensor workspace =
          empty({convolution_workspace(shape, saved_weight.dtype()).weight_gradient.count()},
                Dtype::uint8);
      launch(shape, saved_weight.dtype(), workspace);
    }
    if (wants(2)) {
      out[2] = sum(grads[0], {0, 2, 3}, false);
    }
    return out;
  }
  void release_variables() override {
    input.release();
    weight.release();
  }
  ConvolutionShape shape;
  SavedTensor input{};
  SavedTensor weight{};
};

}  // namespace

Tensor patch_convolution(Tensor input_argument, Tensor weight_argument, Tensor bias_argument) {
  Tensor bias = std::move(bias_argument);
  Tensor weight = std::move(weight_argument);
  Tensor input = std::move(input_argument);
  if (Runtime::current().autocast.enabled) {
    bias = autocast_lower(bias);
    weight = autocast_lower(weight);
    input = autocast_lower(input);
  }
  const OpScope scope{"convolution", {&input, &weight, &bias}};
  const std::int64_t rows = input.size(2) / weight.size(2);
  const std::int64_t columns = input.size(3) / weight.size(3);
  const ConvolutionShape shape{.batch = input.size(0),
                               .in_channels = input.size(1),
                               .out_channels = weight.size(0),
                               .image = input.size(2) * input.size(3),
                               .window = weight.size(2) * weight.size(3),
                               .patches = rows * columns};
  const auto node = make_node<ConvolutionBackward>({&input, &weight, &bias}, shape);
  if (node) {
    node->input.save(input);
    node->weight.save(weight);
  }
  Tensor out = empty({shape.batch, shape.out_channels, rows, columns}, input.dtype());
  const Tensor workspace =
      empty({convolution_workspace(shape, input.dtype()).forward.count()}, Dtype::uint8);
  Runtime::current().libraries.use_cudnn();
  launch(shape, input.dtype(), workspace);
  return with_history(std::move(out), node);
}

}  // namespace peakcast::torch
