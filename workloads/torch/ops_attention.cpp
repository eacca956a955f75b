#include <algorithm>

#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_to(std::int64_t n, std::int64_t unit) { return ceil_div(n, unit) * unit; }

struct Dims {
  Dims(const Tensor& q, const Tensor& k)
      : batch{q.size(0)}, heads{q.size(1)}, kv_heads{k.size(1)}, queries{q.size(2)}, keys{k.size(2)}, width{q.size(3)} {}
  std::int64_t batch;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;
};

void launch(const Dims& d, Dtype dtype, std::int64_t products, bool causal) {
  const std::int64_t flops = 2 * products * d.batch * d.heads * d.queries * d.keys * d.width;
  const std::int64_t bytes = element_size(dtype) * 2 * d.batch * (d.heads * d.queries + d.kv_heads * d.keys) * d.width;
  Runtime::current().launch({KernelCost::Kind::attention, dtype, causal ? flops / 2 : flops, bytes * (products > 2 ? 2 : 1)});
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
    TensorList result(4);
    backward(grads[0], q, k, v, out, result);
    result[3].reset();
    return result;
  }
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
};

// -- memory-efficient -----------------------------------------------------------------------------

/// Source: PyTorch, aten/src/ATen/native/transformers/cuda/attention.cu, attention_backward.cu and
/// mem_eff_attention/kernel_backward.h (2.11).
struct EfficientBackward final : FusedBackward {
  const char* name() const override { return "ScaledDotProductEfficientAttentionBackward0"; }
  void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                TensorList& result) override {
    const Dims d{q, k};
    const OpScope scope{"_efficient_attention_backward"};
    const Tensor grad_t = grad.transpose(1, 2);
    const Tensor grad_dense = grad_t.strides().back() == 1 ? grad_t : grad_t.contiguous();
    const Shape q_sizes{d.batch, d.queries, d.heads, d.width};
    const Shape k_sizes{d.batch, d.keys, d.kv_heads, d.width};
    const Shape v_sizes{d.batch, d.keys, d.kv_heads, v.size(3)};
    const bool one_source = q.storage() == k.storage() && q.storage() == v.storage();
    const bool kv_source = k.storage() == v.storage();
    Tensor dq;
    Tensor dk;
    Tensor dv;
    if (one_source && d.queries == d.keys && v.size(3) == d.width && d.heads == d.kv_heads) {
      // Packed q, k, v get packed gradients.
      const Tensor chunk = empty({d.batch, d.queries, 3, d.heads, d.width}, q.dtype());
      dq = chunk.select(2, 0);
      dk = chunk.select(2, 1);
      dv = chunk.select(2, 2);
    } else if (kv_source && v.size(3) == d.width && k.storage()) {
      dq = empty(q_sizes, q.dtype());
      const Tensor chunk = empty({d.batch, d.keys, 2, d.kv_heads, d.width}, k.dtype());
      dk = chunk.select(2, 0);
      dv = chunk.select(2, 1);
    } else {
      dq = empty(q_sizes, q.dtype());
      dk = empty(k_sizes, k.dtype());
      dv = empty(v_sizes, v.dtype());
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
    constexpr std::int64_t kBlock = 64;
    const std::int64_t columns = d.width <= 64 ? 64 : 128;
    const std::int64_t tiles = ceil_div(d.queries, kBlock) * ceil_div(d.width, columns);
    const std::int64_t floats = round_to(tiles * (4 + kBlock * columns), 4);
    Tensor workspace = empty({d.batch * d.heads * floats * 4}, Dtype::uint8);
    launch(d, q.dtype(), 5, causal);
    delta.reset();
    workspace.reset();
    result[0] = dq.transpose(1, 2);
    result[1] = dk.transpose(1, 2);
    result[2] = dv.transpose(1, 2);
  }
};

Tensor efficient(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const Dims d{q, k};
  const OpScope scope{"_efficient_attention_forward", {&q, &k, &v, &args.mask}};
  const auto node = make_node<EfficientBackward>({&q, &k, &v, &args.mask});
  if (node) {
    node->causal = args.causal;
    node->attn_bias.save(args.mask);
    node->key.save(k);
    node->query.save(q);
    node->value.save(v);
  }
  Tensor out = empty({d.batch, d.queries, d.heads, v.size(3)}, q.dtype());
  Tensor statistics = empty({d.batch, d.heads, node ? round_to(d.queries, 32) : 0}, Dtype::float32);
  launch(d, q.dtype(), 2, args.causal);
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

// -- cuDNN ----------------------------------------------------------------------------------------

struct CudnnBackward final : FusedBackward {
  const char* name() const override { return "ScaledDotProductCudnnAttentionBackward0"; }
  void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& /*out*/,
                TensorList& result) override {
    const Dims d{q, k};
    static_cast<void>(grad);
    const OpScope scope{"_cudnn_attention_backward"};
    result[0] = empty_like(q);
    result[1] = empty_like(k);
    result[2] = empty_like(v);
    // An fp32 dQ accumulator, the softmax sums and 256 bytes of the engine's own.
    Tensor workspace = empty({4 * d.batch * d.heads * d.queries * (d.width + 1) + 256}, Dtype::uint8);
    launch(d, q.dtype(), 5, causal);
    workspace.reset();
  }
};

Tensor cudnn(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const Dims d{q, k};
  const OpScope scope{"_cudnn_attention_forward", {&q, &k, &v, &args.mask}};
  const auto node = make_node<CudnnBackward>({&q, &k, &v, &args.mask});
  if (node) {
    node->causal = args.causal;
    node->attn_bias.save(args.mask);
    node->key.save(k);
    node->query.save(q);
    node->value.save(v);
  }
  Tensor seed = empty({}, Dtype::int64);
  Tensor offset = empty({}, Dtype::int64);
  Tensor out = empty_like(q);
  Tensor statistics = node ? empty({d.batch, d.heads, d.queries, 1}, Dtype::float32) : Tensor{};
  Tensor workspace = empty({256}, Dtype::uint8);
  launch(d, q.dtype(), 2, args.causal);
  workspace.reset();
  out = with_history(std::move(out), node);
  if (node) {
    node->log_sumexp.save_output(statistics);
    node->output.save_output(out);
    node->philox_offset.save_output(offset);
    node->philox_seed.save_output(seed);
  }
  return out;
}

}  // namespace

Tensor scaled_dot_product_attention(Tensor query_argument, Tensor key_argument, Tensor value_argument,
                                    AttentionArgs args_argument) {
  const AttentionArgs args = std::move(args_argument);
  Tensor value = std::move(value_argument);
  Tensor key = std::move(key_argument);
  Tensor query = std::move(query_argument);
  if (Runtime::current().autocast.enabled) {
    value = autocast_lower(value);
    key = autocast_lower(key);
    query = autocast_lower(query);
  }
  if (is_half(query.dtype()) && Runtime::current().gpu().compute_capability == 90) {
    return cudnn(query, key, value, args);
  }
  return efficient(query, key, value, args);
}

}  // namespace peakcast::torch
