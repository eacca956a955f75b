#include <algorithm>

#include "workloads/torch/kernels.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

void launch_like(const Tensor& out, std::int64_t passes) {
  Runtime::current().launch(
      {KernelCost::Kind::elementwise, out.dtype(), out.numel(), passes * out.nbytes().count()});
}

/// The same for a kernel that reduces along rows.
void launch_rows(const Tensor& out, std::int64_t passes, std::int64_t kernels = 1) {
  Runtime::current().launch({.kind = KernelCost::Kind::reduction,
                             .dtype = out.dtype(),
                             .flops = out.numel(),
                             .bytes = passes * out.nbytes().count(),
                             .kernels = kernels});
}

/// Softmax kernels keep rows of up to 1024 elements in registers and read longer ones again.
/// Source: PyTorch, aten/src/ATen/native/cuda/PersistentSoftmax.cuh and SoftMax.cu.
void launch_softmax(const Tensor& out, std::int64_t operands) {
  constexpr std::int64_t kLongestInRegisters = 1024;
  launch_like(out, operands + (out.size(-1) > kLongestInRegisters ? 1 : 0));
}

/// A buffer that a kernel takes for the length of its call.
Tensor scratch(std::int64_t bytes) { return empty({bytes}, Dtype::uint8); }

// -- layer norm -----------------------------------------------------------------------------------

struct LayerNormBackward final : Node {
  [[nodiscard]] const char* name() const override { return "NativeLayerNormBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(3);
    const Tensor saved_bias = bias.unpack();
    const Tensor saved_input = input.unpack();
    const Tensor saved_weight = weight.unpack();
    const Tensor saved_mean = mean.unpack();
    const Tensor saved_rstd = rstd.unpack();
    const OpScope scope{"native_layer_norm_backward"};
    const Tensor grad = grads[0].contiguous();
    if (wants(0)) {
      out[0] = empty(saved_input.sizes(), saved_input.dtype());
    }
    if (wants(1)) {
      out[1] = empty_like(saved_weight);
    }
    if (wants(2)) {
      out[2] = empty_like(saved_weight);
    }
    if (wants(1) && wants(2)) {
      sum_tall(saved_input, out);
    }
    launch_rows(saved_input, 5, 2);  // the input's gradient; then weight's and bias's in one
    return out;
  }
  /// Very many narrow rows: partial sums of 32 rows or more each, then a sum of those.
  /// Source: PyTorch, aten/src/ATen/native/cuda/layer_norm_kernel.cu (2.11).
  static void sum_tall(const Tensor& input, TensorList& out) {
    constexpr std::int64_t kWarp = 32;
    constexpr std::int64_t kMaxGrid = 64 * 1024 / 2;
    const std::int64_t width = out[1].numel();
    const std::int64_t rows = input.numel() / width;
    if (rows <= std::int64_t{64} * 1024 ||
        width / kWarp >= Runtime::current().gpu().multiprocessors / 2) {
      return;
    }
    const std::int64_t across = (width + kWarp - 1) / kWarp;
    const std::int64_t down = std::min(kMaxGrid / across, (rows + kWarp - 1) / kWarp);
    Tensor gamma = empty({down, width}, out[1].dtype());
    Tensor beta = empty({down, width}, out[2].dtype());
    out[1] = sum(gamma, {0}, false);
    out[2] = sum(beta, {0}, false);
    beta.reset();
    gamma.reset();
  }
  void release_variables() override {
    bias.release();
    input.release();
    weight.release();
    mean.release();
    rstd.release();
  }
  SavedTensor bias{};
  SavedTensor input{};
  SavedTensor weight{};
  SavedTensor mean{};
  SavedTensor rstd{};
};

// -- dropout --------------------------------------------------------------------------------------

struct DropoutBackward final : Node {
  [[nodiscard]] const char* name() const override { return "NativeDropoutBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = mask.unpack();
    Tensor out = empty(grads[0].sizes(), grads[0].dtype());
    launch_like(out, 2);
    return {out};
  }
  void release_variables() override { mask.release(); }
  SavedTensor mask{};
};

// -- embedding ------------------------------------------------------------------------------------

struct EmbeddingBackward final : Node {
  EmbeddingBackward(std::int64_t row_count) : rows{row_count} {}
  [[nodiscard]] const char* name() const override { return "EmbeddingBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = indices.unpack();
    const OpScope scope{"embedding_dense_backward"};
    const Tensor grad = grads[0].contiguous();
    const std::int64_t count = saved.numel();
    const std::int64_t width = grad.size(-1);
    constexpr std::int64_t kSmall = 3072;  // above it the indices are sorted first
    Tensor weight_grad;
    if (count <= kSmall) {
      const Tensor contiguous = saved.contiguous();
      weight_grad = empty({rows, width}, grad.dtype());
      launch_like(weight_grad, 1);
      return {weight_grad};
    }
    const Dtype index = saved.dtype();
    Tensor sorted = empty_like(saved);
    Tensor original = empty_like(saved);
    {
      Tensor range = arange(count, index);
      Tensor sort =
          scratch(radix_sort_scratch(count, element_size(index), element_size(index)).count());
      Runtime::current().launch({.kind = KernelCost::Kind::copy,
                                 .dtype = index,
                                 .bytes = 4 * saved.nbytes().count(),
                                 .kernels = 10});
      sort.reset();
      range.reset();
    }
    weight_grad = empty({rows, width}, grad.dtype());
    accumulate_rows(count, width, index, grad.dtype());
    original.reset();
    sorted.reset();
    // Some twenty kernels with those of the sort: segments, partial sums.
    Runtime::current().launch({.kind = KernelCost::Kind::copy,
                               .dtype = grad.dtype(),
                               .bytes = 3 * grad.nbytes().count() + weight_grad.nbytes().count(),
                               .kernels = 10});
    return {weight_grad};
  }
  void release_variables() override { indices.release(); }

  /// Sums equal indices' rows by way of partial sums of ten rows.
  /// Source: PyTorch, aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu (2.11).
  void accumulate_rows(std::int64_t count, std::int64_t width, Dtype index, Dtype dtype) const {
    constexpr std::int64_t kRowsPerPartial = 10;
    constexpr std::int64_t kMaxBlock = 1024;
    constexpr std::int64_t kBlocksPerMultiprocessor = 4;
    const GpuTraits& gpu = Runtime::current().gpu();
    Tensor segment_offsets = empty({count}, index);
    Tensor segments = empty({}, Dtype::int64);
    {
      Tensor unique = scratch(count * element_size(index));
      Tensor temporary = scratch(unique_scratch(count).count());
      temporary.reset();
      unique.reset();
    }
    const std::int64_t most_segments = std::min(count, rows);
    Tensor partials = empty({most_segments}, index);
    Tensor partial_offsets = empty({most_segments}, index);
    scratch(cumsum_scratch(most_segments, element_size(index)).count()).reset();
    Tensor partial_count = empty({}, Dtype::int64);
    const std::int64_t most_partials = count / kRowsPerPartial + most_segments;
    Tensor starts = empty({most_partials}, index);
    const std::int64_t warped = (width + 31) / 32 * 32;
    const std::int64_t block = std::min(warped, kMaxBlock);
    const std::int64_t grid = (most_segments * warped + block - 1) / block;
    // Few, long segments: one kernel adds atomically, into fp32 for half types.
    if (grid < gpu.multiprocessors * kBlocksPerMultiprocessor && most_partials > grid * 4) {
      Tensor segment_of = empty({most_partials}, index);
      Tensor accumulated;
      if (is_half(dtype)) {
        accumulated = empty({rows, width}, Dtype::float32);
      }
      accumulated.reset();
      segment_of.reset();
    } else {
      empty({most_partials, width}, is_half(dtype) ? Dtype::float32 : dtype).reset();
    }
    starts.reset();
    partial_count.reset();
    partial_offsets.reset();
    partials.reset();
    segments.reset();
    segment_offsets.reset();
  }
  std::int64_t rows;
  SavedTensor indices{};
};

// -- softmax --------------------------------------------------------------------------------------

struct SoftmaxBackward final : Node {
  explicit SoftmaxBackward(Dtype dtype) : input_dtype{dtype} {}
  [[nodiscard]] const char* name() const override { return "SoftmaxBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = result.unpack();
    return {softmax_backward(grads[0], saved, input_dtype)};
  }
  void release_variables() override { result.release(); }
  SavedTensor result{};
  Dtype input_dtype;
};
struct LogSoftmaxBackward final : Node {
  explicit LogSoftmaxBackward(Dtype dtype) : input_dtype{dtype} {}
  [[nodiscard]] const char* name() const override { return "LogSoftmaxBackward0"; }
  TensorList apply(TensorList& /*grads*/) override {
    const Tensor saved = result.unpack();
    const OpScope scope{"_log_softmax_backward_data"};
    Tensor out = empty(saved.sizes(), input_dtype);
    launch_softmax(out, 3);
    return {out};
  }
  void release_variables() override { result.release(); }
  SavedTensor result{};
  Dtype input_dtype;
};
struct NllLossBackward final : Node {
  [[nodiscard]] const char* name() const override { return "NllLossBackward0"; }
  TensorList apply(TensorList& /*grads*/) override {
    const Tensor saved = self.unpack();
    const OpScope scope{"nll_loss_backward"};
    Tensor out = empty(saved.sizes(), saved.dtype());
    launch_like(out, 1);
    return {out};
  }
  void release_variables() override {
    self.release();
    target.release();
    total_weight.release();
  }
  SavedTensor self{};
  SavedTensor target{};
  SavedTensor total_weight{};
};

// -- cat and split --------------------------------------------------------------------------------

struct CatBackward final : Node {
  CatBackward(std::vector<std::int64_t> piece_sizes, std::int64_t d)
      : sizes{std::move(piece_sizes)}, dim{d} {}
  [[nodiscard]] const char* name() const override { return "CatBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(sizes.size());
    std::int64_t at = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (wants(i)) {
        out[i] = grads[0].slice(dim, at, at + sizes[i]);
      }
      at += sizes[i];
    }
    return out;
  }
  std::vector<std::int64_t> sizes;
  std::int64_t dim;
};
struct SplitBackward final : Node {
  SplitBackward(Shape piece_sizes, std::int64_t d, Shape whole, Dtype type)
      : sizes{piece_sizes}, dim{d}, self_sizes{whole}, dtype{type} {}
  [[nodiscard]] const char* name() const override { return "SplitBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList pieces = grads;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (!pieces[i].defined()) {  // zeros for a piece without a gradient
        Shape piece = self_sizes;
        piece[static_cast<std::size_t>(dim)] = sizes[i];
        pieces[i] = empty(piece, dtype);
      }
    }
    return {cat(pieces, dim)};
  }
  Shape sizes;
  std::int64_t dim;
  Shape self_sizes;
  Dtype dtype;
};

/// stack of the gradients, zeros for those that did not come.
struct UnbindBackward final : Node {
  UnbindBackward(std::int64_t d, Shape whole, Dtype type)
      : dim{d}, self_sizes{whole}, dtype{type} {}
  [[nodiscard]] const char* name() const override { return "UnbindBackward0"; }
  TensorList apply(TensorList& /*grads*/) override {
    const OpScope scope{"stack"};
    Tensor out = empty(self_sizes, dtype);
    Runtime::current().launch({KernelCost::Kind::copy, dtype, 0, 2 * out.nbytes().count()});
    return {out};
  }
  std::int64_t dim;
  Shape self_sizes;
  Dtype dtype;
};

}  // namespace

Tensor layer_norm(Tensor input_argument, Tensor weight_argument, Tensor bias_argument) {
  Tensor bias = std::move(bias_argument);
  Tensor weight = std::move(weight_argument);
  Tensor input = std::move(input_argument);
  const OpScope scope{"layer_norm", {&input, &weight, &bias}};
  if (Runtime::current().autocast.enabled) {
    bias = autocast_fp32(bias);
    weight = autocast_fp32(weight);
    input = autocast_fp32(input);
  }
  const auto node = make_node<LayerNormBackward>({&input, &weight, &bias});
  if (node) {
    node->bias.save(bias);
    node->input.save(input);
    node->weight.save(weight);
  }
  const Tensor contiguous = input.contiguous();
  Tensor out = empty(input.sizes(), input.dtype());
  Shape rows = input.sizes();
  rows[rows.size() - 1] = 1;
  const Dtype statistics = is_half(input.dtype()) ? Dtype::float32 : input.dtype();
  Tensor mean = empty(rows, statistics);
  Tensor rstd = empty(rows, statistics);
  launch_rows(out, 2);
  out = with_history(std::move(out), node);
  if (node) {
    node->mean.save_output(mean);
    node->rstd.save_output(rstd);
  }
  mean.reset();
  rstd.reset();
  return out;
}

Tensor dropout(Tensor input_argument, double p, bool training) {
  Tensor input = std::move(input_argument);
  if (p == 0 || !training || input.numel() == 0) {
    return input;
  }
  const OpScope scope{"native_dropout", {&input}};
  const auto node = make_node<DropoutBackward>({&input});
  Tensor mask = empty_like(input, Dtype::boolean);
  Tensor out = with_history(empty_like(input), node);
  launch_like(out, 3);
  if (node) {
    node->mask.save_output(mask);
  }
  return out;
}

Tensor embedding(Tensor weight_argument, Tensor indices_argument) {
  const Tensor indices = std::move(indices_argument);
  const Tensor weight = std::move(weight_argument);
  const OpScope scope{"embedding", {&weight, &indices}};
  const auto node = make_node<EmbeddingBackward>({&weight}, weight.size(0));
  if (node) {
    node->indices.save(indices);
  }
  const Tensor flat = indices.dim() == 1 ? indices : indices.reshape({-1});
  Shape sizes = indices.sizes();
  sizes.push_back(weight.size(1));
  Tensor out = empty(sizes, weight.dtype());
  launch_like(out, 2);
  Runtime::current().libraries.use_device_heap();
  return with_history(std::move(out), node);
}

Tensor softmax(Tensor self_argument, std::optional<Dtype> dtype) {
  Tensor self = std::move(self_argument);
  const OpScope scope{"softmax", {&self}};
  if (!dtype && Runtime::current().autocast.enabled && is_half(self.dtype())) {
    dtype = Dtype::float32;  // autocast's list of ops with fp32 output
  }
  // Half input with fp32 output is one kernel; bfloat16 is copied first.
  const bool fused = self.dtype() == Dtype::float16 && dtype == Dtype::float32;
  if (dtype && !fused) {
    self = self.to(*dtype);
  }
  const auto node = make_node<SoftmaxBackward>({&self}, self.dtype());
  const Tensor contiguous = self.contiguous();
  Tensor out = with_history(empty(self.sizes(), dtype.value_or(self.dtype())), node);
  launch_softmax(out, 2);
  if (node) {
    node->result.save_output(out);
  }
  return out;
}

Tensor softmax_backward(const Tensor& grad, const Tensor& result, Dtype input_dtype) {
  const OpScope scope{"_softmax_backward_data"};
  Tensor out = empty(result.sizes(), input_dtype);
  pointwise("mul", {&grad, &result}, result_type(grad, result)).reset();
  launch_softmax(out, 3);
  return out;
}

Tensor log_softmax(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"log_softmax", {&self}};
  const auto node = make_node<LogSoftmaxBackward>({&self}, self.dtype());
  const Tensor contiguous = self.contiguous();
  Tensor out = with_history(empty(self.sizes(), self.dtype()), node);
  launch_softmax(out, 2);
  if (node) {
    node->result.save_output(out);
  }
  return out;
}

Tensor cross_entropy(Tensor logits_argument, Tensor target_argument) {
  const Tensor target = std::move(target_argument);
  const Tensor logits = std::move(logits_argument);
  // It names log_softmax's type itself, so that autocast leaves that alone; nll_loss is on the fp32
  // list.
  Tensor scores = log_softmax(logits);
  const OpScope scope{"nll_loss"};
  if (Runtime::current().autocast.enabled) {
    scores = autocast_fp32(scores);
  }
  const auto node = make_node<NllLossBackward>({&scores});
  if (node) {
    node->self.save(scores);
    node->target.save(target);
  }
  Tensor loss = with_history(empty({}, scores.dtype()), node);
  Tensor total_weight = empty({}, scores.dtype());
  if (node) {
    node->total_weight.save_output(total_weight);
  }
  return loss;
}

Tensor cat(const TensorList& tensors, std::int64_t dim) {
  check(!tensors.empty(), "cat of nothing");
  const OpScope scope{"cat"};
  Ref<CatBackward> node;
  bool grad = false;
  std::vector<std::int64_t> sizes;
  const std::int64_t d = dim < 0 ? dim + tensors.front().dim() : dim;
  Shape out_sizes = tensors.front().sizes();
  out_sizes[static_cast<std::size_t>(d)] = 0;
  Dtype dtype = tensors.front().dtype();
  for (const Tensor& tensor : tensors) {
    sizes.push_back(tensor.size(d));
    out_sizes[static_cast<std::size_t>(d)] += tensor.size(d);
    grad = grad || tensor.requires_grad();
    dtype = promote(dtype, tensor.dtype());
  }
  if (grad && Runtime::current().grad_enabled) {
    node = make_ref<CatBackward>(sizes, d);
    for (const Tensor& tensor : tensors) {
      node->next.push_back(gradient_edge(tensor));
    }
  }
  Tensor out = empty(out_sizes, dtype);
  Runtime::current().launch({KernelCost::Kind::copy, dtype, 0, 2 * out.nbytes().count()});
  return with_history(std::move(out), node);
}

TensorList split(Tensor self_argument, const Shape& sizes, std::int64_t dim) {
  const Tensor self = std::move(self_argument);
  const std::int64_t d = dim < 0 ? dim + self.dim() : dim;
  const auto node = make_node<SplitBackward>({&self}, sizes, d, self.sizes(), self.dtype());
  TensorList pieces;
  std::int64_t at = 0;
  const GradMode no_grad{false};
  for (const std::int64_t size : sizes) {
    pieces.push_back(with_history(self.slice(d, at, at + size), node));
    at += size;
  }
  check(at == self.size(d), "split sizes do not add up");
  return pieces;
}

TensorList unbind(Tensor self_argument, std::int64_t dim) {
  const Tensor self = std::move(self_argument);
  const std::int64_t d = dim < 0 ? dim + self.dim() : dim;
  const auto node = make_node<UnbindBackward>({&self}, d, self.sizes(), self.dtype());
  TensorList pieces;
  const GradMode no_grad{false};
  for (std::int64_t i = 0; i < self.size(d); ++i) {
    pieces.push_back(with_history(self.select(d, i), node));
  }
  return pieces;
}

TensorList chunk(Tensor self_argument, std::int64_t chunks, std::int64_t dim) {
  const Tensor self = std::move(self_argument);
  const std::int64_t length = self.size(dim);
  const std::int64_t each = (length + chunks - 1) / chunks;
  Shape sizes;
  for (std::int64_t at = 0; at < length; at += each) {
    sizes.push_back(std::min(each, length - at));
  }
  return split(self, sizes, dim);
}

}  // namespace peakcast::torch
