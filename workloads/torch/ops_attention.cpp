#include <algorithm>

#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_to(std::int64_t n, std::int64_t unit) { return ceil_div(n, unit) * unit; }

struct Dims {
  Dims(const Tensor& q, const Tensor& k)
      : batch{q.size(0)},
        heads{q.size(1)},
        kv_heads{k.size(1)},
        queries{q.size(2)},
        keys{k.size(2)},
        width{q.size(3)} {}
  std::int64_t batch;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;
};

AttentionWork work_of(const Dims& d, Dtype dtype, bool causal, bool random, bool backward) {
  return {.batch = d.batch,
          .heads = d.heads,
          .query_length = d.queries,
          .key_length = d.keys,
          .head_dim = d.width,
          .unit = math_unit(dtype),
          .causal = causal,
          .dropout = random,
          .backward = backward};
}

void launch(const Dims& d, Dtype dtype, std::int64_t products, bool causal, bool random) {
  const std::int64_t flops = 2 * products * d.batch * d.heads * d.queries * d.keys * d.width;
  const std::int64_t bytes =
      element_size(dtype) * 2 * d.batch * (d.heads * d.queries + d.kv_heads * d.keys) * d.width;
  KernelCost cost{.kind = KernelCost::Kind::attention,
                  .dtype = dtype,
                  .flops = causal ? flops / 2 : flops,
                  .bytes = bytes * (products > 2 ? 2 : 1)};
  cost.attention = work_of(d, dtype, causal, random, products > 2);
  Runtime::current().launch(cost);
}

/// What the fused back ends keep, released in PyTorch's order.
struct FusedBackward : Node {
  TensorList apply(TensorList& grads) override {
    const Tensor mask = attn_bias.unpack();
    const Tensor k = key.unpack();
    const Tensor q = query.unpack();
    const Tensor v = value.unpack();
    const Tensor statistics = log_sumexp.unpack();
    const Tensor out = output.unpack();
    const Tensor offset = philox_offset.unpack();
    const Tensor seed = philox_seed.unpack();
    TensorList result(4);
    backward(grads[0], q, k, v, out, result);
    return result;
  }
  /// Fills the gradients of query, key and value, and of a bias that learns.
  virtual void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& out, TensorList& result) = 0;
  void release_variables() override {
    attn_bias.release();
    key.release();
    query.release();
    value.release();
    log_sumexp.release();
    output.release();
    philox_offset.release();
    philox_seed.release();
  }
  SavedTensor attn_bias{};
  SavedTensor key{};
  SavedTensor query{};
  SavedTensor value{};
  SavedTensor log_sumexp{};
  SavedTensor output{};
  SavedTensor philox_offset{};
  SavedTensor philox_seed{};
  bool causal{};
  bool random{};  ///< dropout
};

/// A boolean mask as an additive one: what is not kept becomes minus infinity.
Tensor boolean_mask_as_bias(const Tensor& mask, Dtype dtype) {
  if (!mask.defined() || mask.dtype() != Dtype::boolean) {
    return mask;
  }
  const Tensor zero = empty({}, dtype);
  const Tensor least = empty({}, dtype);
  return pointwise("where", {&mask, &zero, &least}, dtype);
}

// -- memory-efficient -----------------------------------------------------------------------------

/// Source: PyTorch, aten/src/ATen/native/transformers/cuda/attention.cu, attention_backward.cu and
/// mem_eff_attention/kernel_backward.h (2.11).
struct EfficientBackward final : FusedBackward {
  [[nodiscard]] const char* name() const override {
    return "ScaledDotProductEfficientAttentionBackward0";
  }
  void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                const Tensor& out, TensorList& result) override {
    const Dims d{q, k};
    const OpScope scope{"_efficient_attention_backward"};
    const Tensor grad_t = grad.transpose(1, 2);
    const Tensor grad_dense = grad_t.strides().back() == 1 ? grad_t : grad_t.contiguous();
    const Shape q_sizes{d.batch, d.queries, d.heads, d.width};
    const Shape k_sizes{d.batch, d.keys, d.kv_heads, d.width};
    const Shape v_sizes{d.batch, d.keys, d.kv_heads, v.size(3)};
    const Tensor dq = empty(q_sizes, q.dtype());
    const Tensor dk = empty(k_sizes, k.dtype());
    const Tensor dv = empty(v_sizes, v.dtype());
    if (wants(3)) {  // a bias that learns: every batch entry's, with rows of whole sixteens
      constexpr std::int64_t kBiasAlignment = 16;
      const Tensor bias_gradient =
          empty({d.batch, d.heads, d.queries, round_to(d.keys, kBiasAlignment)}, q.dtype());
      result[3] = bias_gradient.slice(-1, 0, d.keys);
    }
    Tensor delta;
    if (q.dtype() == Dtype::float32) {
      const Tensor out_t = out.transpose(1, 2);
      Tensor product = pointwise("mul", {&grad_dense, &out_t}, Dtype::float32);
      Tensor rows = sum(product, {-1}, false);
      delta = rows.transpose(1, 2).contiguous();
      rows.reset();
      product.reset();
    } else {
      delta = empty({d.batch, d.heads, d.queries}, Dtype::float32);
    }
    // One fp32 dQ accumulator per block of queries, with a counter per tile.
    constexpr std::int64_t kColumns = 64;
    const std::int64_t block = d.width <= 64 ? 64 : 128;
    const std::int64_t tiles = ceil_div(d.queries, block) * ceil_div(d.width, kColumns);
    const std::int64_t floats = round_to(tiles * (4 + block * kColumns), 4);
    Tensor workspace = empty({d.batch * d.heads * floats * 4}, Dtype::uint8);
    launch(d, q.dtype(), 5, causal, random);
    delta.reset();
    workspace.reset();
    result[0] = dq.transpose(1, 2);
    result[1] = dk.transpose(1, 2);
    result[2] = dv.transpose(1, 2);
  }
};

/// The padding is cut off again, into a copy.
struct ConstantPadBackward final : Node {
  explicit ConstantPadBackward(Shape unpadded) : sizes{unpadded} {}
  [[nodiscard]] const char* name() const override { return "ConstantPadNdBackward0"; }
  TensorList apply(TensorList& grads) override { return {empty(sizes, grads[0].dtype())}; }
  Shape sizes;
};

/// A bias whose rows do not start on eight elements is copied into rows that do.
Tensor padded_bias(const Tensor& bias) {
  constexpr std::int64_t kAlignment = 8;
  if (!bias.defined() || bias.size(-1) % kAlignment == 0) {
    return bias;
  }
  const OpScope scope{"constant_pad_nd"};
  const auto node = make_node<ConstantPadBackward>({&bias}, bias.sizes());
  Shape sizes = bias.sizes();
  sizes[sizes.size() - 1] = round_to(bias.size(-1), kAlignment);
  return with_history(empty(sizes, bias.dtype()), node).slice(-1, 0, bias.size(-1));
}

Tensor efficient(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const Dims d{q, k};
  Tensor bias = padded_bias(boolean_mask_as_bias(args.mask, q.dtype()));
  if (bias.defined()) {
    bias = bias.expand({d.batch, d.heads, d.queries, d.keys});
  }
  const OpScope scope{"_efficient_attention_forward", {&q, &k, &v, &bias}};
  const auto node = make_node<EfficientBackward>({&q, &k, &v, &bias});
  if (node) {
    node->causal = args.causal;
    node->random = args.dropout > 0;
    node->attn_bias.save(bias);
    node->key.save(k);
    node->query.save(q);
    node->value.save(v);
  }
  Tensor out = empty({d.batch, d.queries, d.heads, v.size(3)}, q.dtype());
  Tensor statistics = empty({d.batch, d.heads, node ? round_to(d.queries, 32) : 0}, Dtype::float32);
  launch(d, q.dtype(), 2, args.causal, args.dropout > 0);
  Tensor result;
  {
    const GradMode no_grad{false};
    // The operator returns a transposed alias of what it allocated, and no view.
    result = out.transpose(1, 2).detach();
  }
  result = with_history(std::move(result), node);
  if (node) {
    node->log_sumexp.save_output(statistics);
    node->output.save_output(result);
  }
  return result;
}

// -- flash ----------------------------------------------------------------------------------------

/// FlashAttention-2. Source: PyTorch,
/// aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp.
struct FlashBackward final : FusedBackward {
  [[nodiscard]] const char* name() const override {
    return "ScaledDotProductFlashAttentionBackward0";
  }
  void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                const Tensor& /*out*/, TensorList& result) override {
    const Dims d{q, k};
    const OpScope scope{"_flash_attention_backward"};
    const Tensor grad_t = grad.transpose(1, 2);
    const Tensor dense = grad_t.strides().back() == 1 ? grad_t : grad_t.contiguous();
    const std::int64_t queries = round_to(d.queries, 128);
    const std::int64_t width = round_to(d.width, 32);
    Tensor dq = empty_like(q.transpose(1, 2));
    Tensor dk = empty_like(k.transpose(1, 2));
    Tensor dv = empty_like(v.transpose(1, 2));
    Tensor softmax_d = empty({d.batch, d.heads, queries}, Dtype::float32);
    Tensor accumulator = empty({d.batch, queries, d.heads, width}, Dtype::float32);
    Tensor dk_expanded;
    Tensor dv_expanded;
    if (d.heads != d.kv_heads) {
      dk_expanded = empty({d.batch, d.keys, d.heads, d.width}, q.dtype());
      dv_expanded = empty({d.batch, d.keys, d.heads, d.width}, q.dtype());
    }
    launch(d, q.dtype(), 5, causal, random);
    dv_expanded.reset();
    dk_expanded.reset();
    accumulator.reset();
    softmax_d.reset();
    result[0] = dq.transpose(1, 2);
    result[1] = dk.transpose(1, 2);
    result[2] = dv.transpose(1, 2);
  }
};

Tensor flash(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const Dims d{q, k};
  const OpScope scope{"_flash_attention_forward", {&q, &k, &v}};
  const Tensor none;
  const auto node = make_node<FlashBackward>({&q, &k, &v, &none});
  if (node) {
    node->causal = args.causal;
    node->random = args.dropout > 0;
    node->key.save(k);
    node->query.save(q);
    node->value.save(v);
  }
  Tensor out = empty_like(q.transpose(1, 2));
  Tensor statistics = empty({d.batch, d.heads, d.queries}, Dtype::float32);
  Tensor rng_state = empty({2}, Dtype::int64);
  Tensor unused = empty({}, Dtype::int64);
  launch(d, q.dtype(), 2, args.causal, args.dropout > 0);
  Tensor result;
  {
    const GradMode no_grad{false};
    result = out.transpose(1, 2).detach();
  }
  out.reset();
  result = with_history(std::move(result), node);
  if (node) {
    node->log_sumexp.save_output(statistics);
    node->output.save_output(result);
    node->philox_seed.save_output(rng_state);
    node->philox_offset.save_output(unused);
  }
  statistics.reset();
  rng_state.reset();
  unused.reset();
  return result;
}

// -- cuDNN ----------------------------------------------------------------------------------------

struct CudnnBackward final : FusedBackward {
  [[nodiscard]] const char* name() const override {
    return "ScaledDotProductCudnnAttentionBackward0";
  }
  void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
                const Tensor& /*out*/, TensorList& result) override {
    const Dims d{q, k};
    static_cast<void>(grad);
    const OpScope scope{"_cudnn_attention_backward"};
    result[0] = empty_like(q);
    result[1] = empty_like(k);
    result[2] = empty_like(v);
    // An fp32 dQ accumulator, the softmax sums and 256 bytes of the engine's own. Grouped queries:
    // also dK and dV of every query head, which are then added up.
    const std::int64_t grouped =
        d.heads == d.kv_heads ? 0
                              : 2 * element_size(q.dtype()) * d.batch * d.heads * d.keys * d.width;
    const std::int64_t accumulator = 4 * d.batch * d.heads * d.queries * (d.width + 1);
    Runtime::current().libraries.use_attention_plan(work_of(d, q.dtype(), causal, random, true));
    Tensor workspace = empty({accumulator + grouped + 256}, Dtype::uint8);
    launch(d, q.dtype(), 5, causal, random);
    workspace.reset();
  }
};

/// Laid out as the query, with the values' width.
Tensor output_like(const Tensor& q, std::int64_t width) {
  if (q.size(3) == width) {
    return empty_like(q);
  }
  const bool transposed = q.strides()[1] < q.strides()[2];  // [batch, sequence, heads, size]
  return transposed ? empty({q.size(0), q.size(2), q.size(1), width}, q.dtype()).transpose(1, 2)
                    : empty({q.size(0), q.size(1), q.size(2), width}, q.dtype());
}

Tensor cudnn(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const Dims d{q, k};
  const Tensor bias = boolean_mask_as_bias(args.mask, q.dtype());
  const OpScope scope{"_cudnn_attention_forward", {&q, &k, &v, &bias}};
  Runtime::current().libraries.use_cudnn();
  const auto node = make_node<CudnnBackward>({&q, &k, &v, &bias});
  if (node) {
    node->causal = args.causal;
    node->random = args.dropout > 0;
    node->attn_bias.save(bias);
    node->key.save(k);
    node->query.save(q);
    node->value.save(v);
  }
  Tensor seed = empty({}, Dtype::int64);
  Tensor offset = empty({}, Dtype::int64);
  Tensor out = output_like(q, v.size(3));
  Tensor statistics = node ? empty({d.batch, d.heads, d.queries, 1}, Dtype::float32) : Tensor{};
  Runtime::current().libraries.use_attention_plan(
      work_of(d, q.dtype(), args.causal, args.dropout > 0, false));
  Tensor workspace = empty({256}, Dtype::uint8);
  launch(d, q.dtype(), 2, args.causal, args.dropout > 0);
  workspace.reset();
  out = with_history(std::move(out), node);
  if (node) {
    node->log_sumexp.save_output(statistics);
    node->output.save_output(out);
    node->philox_offset.save_output(offset);
    node->philox_seed.save_output(seed);
  }
  statistics.reset();
  seed.reset();
  offset.reset();
  return out;
}

// -- math -----------------------------------------------------------------------------------------

struct SafeSoftmaxBackward final : Node {
  [[nodiscard]] const char* name() const override { return "SafeSoftmaxBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = result.unpack();
    return {softmax_backward(grads[0], saved, saved.dtype())};
  }
  void release_variables() override { result.release(); }
  SavedTensor result{};
};

/// Softmax that gives zeros for rows that are masked throughout.
Tensor safe_softmax(const Tensor& self) {
  const OpScope scope{"_safe_softmax", {&self}};
  const auto node = make_node<SafeSoftmaxBackward>({&self});
  Tensor out;
  {
    const GradMode no_grad{false};
    out = softmax(self);
    Tensor masked = pointwise("isneginf", {&self}, Dtype::boolean);
    Shape rows = self.sizes();
    rows[rows.size() - 1] = 1;
    Tensor masked_rows = empty(rows, Dtype::boolean);
    Tensor zero = empty({}, self.dtype());
    zero.reset();
    masked_rows.reset();
    masked.reset();
  }
  out = with_history(std::move(out), node);
  if (node) {
    node->result.save_output(out);
  }
  return out;
}

/// Key and value heads repeated to the query's, for grouped-query attention.
Tensor repeat_heads(const Tensor& tensor, std::int64_t heads) {
  const std::int64_t groups = heads / tensor.size(1);
  if (groups == 1) {
    return tensor;
  }
  Shape expanded = tensor.sizes();
  expanded.insert(2, groups);
  Shape merged = tensor.sizes();
  merged[1] = heads;
  return tensor.unsqueeze(2).expand(expanded).reshape(merged);
}

/// Source: PyTorch, aten/src/ATen/native/transformers/attention.cpp,
/// _scaled_dot_product_attention_math.
Tensor math(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const OpScope scope{"_scaled_dot_product_attention_math"};
  // autocast does not reach below this operator.
  const Setting<bool> inner{Runtime::current().autocast.enabled, false};
  const Dtype origin = q.dtype();
  const Dtype compute = is_half(origin) ? Dtype::float32 : origin;
  Tensor query_acc = q.to(compute);
  Tensor key_acc = k.to(compute);
  Tensor value_acc = v.to(compute);
  Tensor query = query_acc * 1.0;
  Tensor mask = boolean_mask_as_bias(args.mask, query.dtype());
  if (args.causal) {
    const GradMode no_grad{false};
    Tensor ones = empty({q.size(2), k.size(2)}, Dtype::boolean);
    const Tensor triangle = empty({q.size(2), k.size(2)}, Dtype::boolean);
    ones.reset();
    mask = boolean_mask_as_bias(triangle, query.dtype());
  }
  Tensor keys = args.enable_gqa ? repeat_heads(key_acc, q.size(1)) : key_acc;
  Tensor values = args.enable_gqa ? repeat_heads(value_acc, q.size(1)) : value_acc;
  Tensor attn = matmul(query, keys.transpose(-2, -1) * 1.0);
  if (mask.defined()) {
    if (Runtime::current().dispatch_mode) {
      attn = attn + mask;
    } else {
      add_in_place(attn, mask);
    }
  }
  attn = safe_softmax(attn);
  if (args.dropout > 0) {
    attn = dropout(attn, args.dropout, true);
  }
  // Both results are cast back, the weights first.
  Tensor weights = attn.to(origin);
  Tensor out = matmul(attn, values).to(origin);
  attn.reset();
  values.reset();
  keys.reset();
  query.reset();
  value_acc.reset();
  key_acc.reset();
  query_acc.reset();
  weights.reset();
  return out;
}

// -- choice ---------------------------------------------------------------------------------------

enum class Backend : std::uint8_t { cudnn, flash, efficient, math };

/// Source: PyTorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (2.11), with a runtime
/// cuDNN above 9.15: on compute capability 9.0 and 10.0 cuDNN comes first, then flash,
/// memory-efficient, math.
Backend choose(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const GpuTraits& gpu = Runtime::current().gpu();
  const bool half = is_half(q.dtype());
  const std::int64_t width = q.size(3);
  const bool grouped = k.size(1) != q.size(1);
  const auto dense_last = [](const Tensor& tensor) {
    return !tensor.defined() || tensor.size(-1) == 1 || tensor.strides().back() == 1;
  };
  const bool strides = dense_last(q) && dense_last(k) && dense_last(v) && dense_last(args.mask);
  // check_attn_mask_shape refuses a mask that learns before it looks at the shape.
  const bool learns = args.mask.defined() && args.mask.requires_grad();
  const bool heads = !grouped || (args.enable_gqa && q.size(1) % k.size(1) == 0);
  const bool cudnn_first = gpu.compute_capability == 90 || gpu.compute_capability == 100;
  if (cudnn_first && half && strides && heads && !learns && width % 8 == 0 && width <= 256 &&
      v.size(3) % 8 == 0 && k.size(2) > 1) {
    return Backend::cudnn;
  }
  const bool ampere = gpu.compute_capability >= 80;
  if (ampere && half && strides && heads && !args.mask.defined() && width <= 256 &&
      v.size(3) == width && (!args.causal || q.size(2) == k.size(2))) {
    return Backend::flash;
  }
  const std::int64_t alignment = half ? (ampere ? 8 : 4) : 4;
  if (gpu.compute_capability >= 50 && strides && !grouped && width % alignment == 0 &&
      v.size(3) % alignment == 0 && q.dtype() != Dtype::float64 &&
      (q.dtype() != Dtype::bfloat16 || ampere)) {
    return Backend::efficient;
  }
  return Backend::math;
}

}  // namespace

Tensor scaled_dot_product_attention(Tensor query_argument, Tensor key_argument,
                                    Tensor value_argument, AttentionArgs args_argument) {
  const AttentionArgs args = std::move(args_argument);
  Tensor mask = args.mask;
  Tensor value = std::move(value_argument);
  Tensor key = std::move(key_argument);
  Tensor query = std::move(query_argument);
  if (Runtime::current().autocast.enabled) {
    mask = autocast_lower(mask);
    value = autocast_lower(value);
    key = autocast_lower(key);
    query = autocast_lower(query);
  }
  const AttentionArgs cast{mask, args.dropout, args.causal, args.enable_gqa};
  switch (choose(query, key, value, cast)) {
    case Backend::cudnn:
      return cudnn(query, key, value, cast);
    case Backend::flash:
      return flash(query, key, value, cast);
    case Backend::efficient:
      return efficient(query, key, value, cast);
    case Backend::math:
      return math(query, key, value, cast);
  }
  return {};
}

}  // namespace peakcast::torch
