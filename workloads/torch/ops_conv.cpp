#include <algorithm>

#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

/// A convolution whose stride is its kernel, as in patch embeddings: windows do not overlap.
struct ConvolutionShape {
  std::int64_t batch{};
  std::int64_t in_channels{};
  std::int64_t out_channels{};
  std::int64_t image{};  ///< pixels of the input, per channel
  std::int64_t window{};
  std::int64_t patches{};  ///< pixels of the output, per channel
};

/// cuDNN computes in channels-last layout. For NCHW tensors its workspace holds all three in the
/// other layout, with the input channels padded to 16 bytes where the kernel asks for it, and a few
/// bytes of the engine's own; half-precision weight gradients are split over blocks, with a
/// semaphore per tile of 64 x 64, or for very many rows with three fp32 partial sums. fp32 products
/// of few rows run in the given layout and need nothing.
///
/// Measured, not derived (cuDNN's heuristics are closed): patch embeddings with 3 channels, patches
/// of 14, 16 and 32, 768 to 1280 channels out, 196 to 12544 rows (H100, PyTorch 2.11.0+cu130,
/// 2026-11-24). Where between two recorded sizes the kernel changes is not known: fp32 forward
/// between 1024 and 1568 rows, weight gradients between 392 and 784, partial sums between 1568 and
/// 12544. To measure again: capture.py with "attribute" on a ViT.
struct ConvolutionWorkspace {
  Bytes forward{};
  Bytes weight_gradient{};
};
ConvolutionWorkspace workspace_of(const ConvolutionShape& shape, Dtype dtype) {
  const std::int64_t element = element_size(dtype);
  const std::int64_t unit = 16 / element;
  const std::int64_t padded = (shape.in_channels + unit - 1) / unit * unit;
  const std::int64_t rows = shape.batch * shape.patches;
  const auto copies = [&](std::int64_t channels) {
    return element *
           (shape.batch * channels * shape.image + shape.out_channels * channels * shape.window +
            shape.batch * shape.out_channels * shape.patches);
  };
  constexpr std::int64_t kEngine = 16;
  constexpr std::int64_t kGradientEngine = 144;
  constexpr std::int64_t kFewForwardRows = 1024;
  constexpr std::int64_t kFewGradientRows = 512;
  constexpr std::int64_t kManyRows = 8192;
  if (!is_half(dtype)) {
    return {Bytes{rows > kFewForwardRows ? copies(shape.in_channels) + kEngine : 0},
            Bytes{rows > kFewGradientRows ? copies(padded) + kGradientEngine : 0}};
  }
  std::int64_t sums = 0;
  if (rows > kManyRows) {
    constexpr std::int64_t kPartials = 3;
    sums = kPartials * 4 * shape.out_channels * padded * shape.window;
  } else if (rows > kFewGradientRows) {
    constexpr std::int64_t kTile = 64;
    const std::int64_t tiles =
        ((shape.out_channels + kTile - 1) / kTile) * ((padded * shape.window + kTile - 1) / kTile);
    sums = 4 * tiles;
  }
  return {Bytes{copies(padded) + kEngine}, Bytes{copies(padded) + kGradientEngine + sums}};
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
          empty({workspace_of(shape, saved_weight.dtype()).weight_gradient.count()}, Dtype::uint8);
      Runtime::current().launch({KernelCost::Kind::matmul, saved_weight.dtype(),
                                 2 * grad.numel() * saved_weight.numel() / shape.out_channels,
                                 3 * workspace.nbytes().count()});
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
      empty({workspace_of(shape, input.dtype()).forward.count()}, Dtype::uint8);
  Runtime::current().use_cudnn();
  Runtime::current().launch({KernelCost::Kind::matmul, input.dtype(),
                             2 * out.numel() * shape.in_channels * shape.window,
                             3 * workspace.nbytes().count()});
  return with_history(std::move(out), node);
}

}  // namespace peakcast::torch
