#include "workloads/models/decoder_layers.hpp"

#include <utility>

#include "workloads/models/activation.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {

using torch::Dtype;
using torch::GradMode;
using torch::Locals;
using torch::Module;
using torch::ModuleOf;
using torch::Tensor;

RMSNorm::RMSNorm(Module* parent, std::string_view name, std::int64_t size)
    : ModuleOf{parent, name}, weight{add_parameter("weight", {size})} {}

Tensor RMSNorm::forward(const Tensor& input) {
  const Dtype input_dtype = input.dtype();
  Locals locals;
  Tensor& hidden_states = locals.add(input);
  Tensor& variance = locals.add();
  hidden_states = hidden_states.to(Dtype::float32);
  variance = torch::mean(torch::pow(hidden_states, 2.0), {-1}, true);
  hidden_states = hidden_states * torch::rsqrt(variance + 1e-6);
  return weight * hidden_states.to(input_dtype);
}

RotaryEmbedding::RotaryEmbedding(Module* parent, std::string_view name, std::int64_t head_dim)
    : ModuleOf{parent, name} {
  static_cast<void>(add_buffer("inv_freq", {head_dim / 2}, Dtype::float32));
  static_cast<void>(add_buffer("original_inv_freq", {head_dim / 2}, Dtype::float32));
}

RotaryTables RotaryEmbedding::forward(const Tensor& hidden_states, const Tensor& position_ids) {
  const GradMode no_grad{false};
  const torch::Setting<bool> no_autocast{torch::Runtime::current().autocast.enabled, false};
  Locals locals;
  Tensor& frequencies = locals.add();
  Tensor& positions = locals.add();
  Tensor& freqs = locals.add();
  Tensor& emb = locals.add();
  Tensor& cos = locals.add();
  Tensor& sin = locals.add();
  const std::int64_t half = own_buffers[0].tensor.numel();
  frequencies = own_buffers[0].tensor.view({1, half, 1}).to(Dtype::float32);
  positions = position_ids.view({1, 1, position_ids.size(1)}).to(Dtype::float32);
  freqs = torch::matmul(frequencies, positions).transpose(1, 2);
  emb = torch::cat({freqs, freqs}, -1);
  cos = torch::pointwise("cos", {&emb}, Dtype::float32) * 1.0;
  sin = torch::pointwise("sin", {&emb}, Dtype::float32) * 1.0;
  const Dtype dtype = hidden_states.dtype();
  RotaryTables tables;
  tables.cos = cos.to(dtype);
  tables.sin = sin.to(dtype);
  return tables;
}

namespace {

Tensor rotate_half(const Tensor& x) {
  const std::int64_t width = x.size(-1);
  Locals locals;
  Tensor& x1 = locals.add(x.slice(-1, 0, width / 2));
  Tensor& x2 = locals.add(x.slice(-1, width / 2, width));
  return torch::cat({-x2, x1}, -1);
}

/// apply_rotary_pos_emb for one of q and k.
Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  Tensor with_cos = x * cos;
  Tensor with_sin = rotate_half(x) * sin;
  return std::move(with_cos) + std::move(with_sin);
}

/// repeat_kv: [batch, kv heads, seq, size] to one per query head.
Tensor repeat_kv(const Tensor& x, std::int64_t repeats) {
  if (repeats == 1) {
    return x;
  }
  const torch::Shape sizes = x.sizes();
  return x.unsqueeze(2)
      .expand({sizes[0], sizes[1], repeats, sizes[2], sizes[3]})
      .reshape({sizes[0], sizes[1] * repeats, sizes[2], sizes[3]});
}

AttentionResult eager_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                std::int64_t groups, const AttentionCall& call) {
  Locals locals;
  Tensor& key_states = locals.add(repeat_kv(key, groups));
  Tensor& value_states = locals.add(repeat_kv(value, groups));
  Tensor& weights = locals.add();
  Tensor& output = locals.add();
  weights = torch::matmul(query, key_states.transpose(2, 3)) * 1.0;
  if (call.mask.defined()) {
    weights = weights + call.mask;
  }
  weights = torch::softmax(weights, Dtype::float32).to(query.dtype());
  weights = torch::dropout(weights, call.dropout, call.training);
  output = torch::matmul(weights, value_states);
  output = output.transpose(1, 2).contiguous();
  return {output, weights};
}

/// sdpa_attention_forward.
AttentionResult sdpa_attention(const Tensor& query, const Tensor& key_argument,
                               const Tensor& value_argument, std::int64_t groups,
                               const AttentionCall& call) {
  Locals locals;
  Tensor& key = locals.add(key_argument);
  Tensor& value = locals.add(value_argument);
  bool enable_gqa = false;
  if (groups > 1) {
    constexpr std::int64_t kWidest = 256;  // use_gqa_in_sdpa
    enable_gqa = !call.mask.defined() && key.size(-1) <= kWidest;
    if (!enable_gqa) {
      key = repeat_kv(key, groups);
      value = repeat_kv(value, groups);
    }
  }
  const bool causal = query.size(2) > 1 && !call.mask.defined();
  Tensor& output = locals.add();
  output = torch::scaled_dot_product_attention(
      query, key, value, {call.mask, call.training ? call.dropout : 0.0, causal, enable_gqa});
  output = output.transpose(1, 2).contiguous();
  return {output, {}};
}

}  // namespace

LlamaAttention::LlamaAttention(Module* parent, std::string_view name, const ModelConfig& c,
                               Attention kind)
    : ModuleOf{parent, name},
      q_proj{this, "q_proj", c.hidden_size, c.heads * c.head_dim, c.qkv_bias},
      k_proj{this, "k_proj", c.hidden_size, c.key_value_heads * c.head_dim, c.qkv_bias},
      v_proj{this, "v_proj", c.hidden_size, c.key_value_heads * c.head_dim, c.qkv_bias},
      o_proj{this, "o_proj", c.heads * c.head_dim, c.hidden_size, c.output_bias},
      head_dim{c.head_dim},
      groups{c.heads / c.key_value_heads},
      dropout_p{c.attention_dropout},
      implementation{kind} {}

AttentionResult LlamaAttention::forward(const Tensor& hidden_states, const RotaryTables& positions,
                                        const Tensor& mask, KeyValueCache* cache) {
  const torch::Shape shape{hidden_states.size(0), hidden_states.size(1), -1, head_dim};
  Locals locals;
  Tensor& query = locals.add();
  Tensor& key = locals.add();
  Tensor& value = locals.add();
  Tensor& output = locals.add();
  Tensor& weights = locals.add();
  query = q_proj(hidden_states).view(shape).transpose(1, 2);
  key = k_proj(hidden_states).view(shape).transpose(1, 2);
  value = v_proj(hidden_states).view(shape).transpose(1, 2);
  {  // apply_rotary_pos_emb: both results exist before either name is rebound
    const Tensor cos = positions.cos.unsqueeze(1);
    const Tensor sin = positions.sin.unsqueeze(1);
    Tensor q_embed = rotated(query, cos, sin);
    Tensor k_embed = rotated(key, cos, sin);
    query = std::move(q_embed);
    key = std::move(k_embed);
  }
  if (cache != nullptr) {
    cache->update(key, value);
  }
  {
    const AttentionCall call{implementation, dropout_p, true, training, mask};
    AttentionResult result = implementation == Attention::eager
                                 ? eager_attention(query, key, value, groups, call)
                                 : sdpa_attention(query, key, value, groups, call);
    output = std::move(result.output);
    weights = std::move(result.weights);
  }
  output = output.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
  output = o_proj(output);
  return {output, weights};
}

LlamaMLP::LlamaMLP(Module* parent, std::string_view name, const ModelConfig& c)
    : ModuleOf{parent, name},
      gate_proj{this, "gate_proj", c.hidden_size, c.intermediate_size, c.mlp_bias},
      up_proj{this, "up_proj", c.hidden_size, c.intermediate_size, c.mlp_bias},
      down_proj{this, "down_proj", c.intermediate_size, c.hidden_size, c.mlp_bias},
      act_fn{this, "act_fn", [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {
}

Tensor LlamaMLP::forward(const Tensor& x) {
  Tensor activated = gate_proj(x);
  activated = act_fn(std::exchange(activated, {}));
  Tensor up = up_proj(x);
  Tensor product = std::move(activated) * std::move(up);
  return down_proj(std::move(product));
}

}  // namespace peakcast::models
