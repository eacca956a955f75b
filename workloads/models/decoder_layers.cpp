#include "workloads/models/decoder_layers.hpp"

#include <utility>

#include "workloads/family.hpp"
#include "workloads/models/activation.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {

using torch::Dtype;
using torch::GradMode;
using torch::Locals;
using torch::Module;
using torch::ModuleOf;
using torch::Tensor;

RMSNorm::RMSNorm(Module* parent, std::string_view name, std::int64_t size, DecoderTraits::Norm norm)
    : ModuleOf{parent, name}, weight{add_parameter("weight", {size})}, kind{norm} {}

namespace {

/// Gemma's _norm.
Tensor root_mean_square_normed(const Tensor& x) {
  return x * torch::rsqrt(torch::mean(torch::pow(x, 2.0), {-1}, true) + 1e-6);
}

}  // namespace

Tensor RMSNorm::forward(const Tensor& input) {
  const Dtype input_dtype = input.dtype();
  Locals locals;
  Tensor& hidden_states = locals.add(kind == DecoderTraits::Norm::one_plus ? Tensor{} : input);
  if (kind == DecoderTraits::Norm::one_plus) {
    Tensor& output = hidden_states;
    output = root_mean_square_normed(input.to(Dtype::float32));
    output = output * (weight.to(Dtype::float32) + 1.0);
    return output.to(input_dtype);
  }
  Tensor& variance = locals.add();
  hidden_states = hidden_states.to(Dtype::float32);
  variance = torch::mean(torch::pow(hidden_states, 2.0), {-1}, true);
  hidden_states = hidden_states * torch::rsqrt(variance + 1e-6);
  if (kind == DecoderTraits::Norm::weight_first) {
    return (weight * hidden_states).to(input_dtype);
  }
  return weight * hidden_states.to(input_dtype);
}

RotaryEmbedding::RotaryEmbedding(Module* parent, std::string_view name, std::int64_t rotary_dim,
                                 const DecoderTraits& row)
    : ModuleOf{parent, name}, traits{row} {
  const int kinds = traits.two_rotaries ? 2 : 1;
  for (int kind = 0; kind < kinds; ++kind) {
    const std::string prefix = !traits.two_rotaries ? ""
                               : kind == 0          ? "full_attention_"
                                                    : "sliding_attention_";
    static_cast<void>(add_buffer(prefix + "inv_freq", {rotary_dim / 2}, Dtype::float32));
    static_cast<void>(add_buffer(prefix + "original_inv_freq", {rotary_dim / 2}, Dtype::float32));
  }
}

RotaryTables RotaryEmbedding::forward(const Tensor& hidden_states, const Tensor& position_ids,
                                      bool windowed) {
  const GradMode no_grad{false};
  const torch::Setting<bool> no_autocast{torch::Runtime::current().autocast.enabled, false};
  Locals locals;
  Tensor& frequencies = locals.add();
  Tensor& positions = locals.add();
  Tensor& freqs = locals.add();
  Tensor& emb = locals.add();
  Tensor& cos = locals.add();
  Tensor& sin = locals.add();
  const Tensor& inverse = own_buffers[windowed && traits.two_rotaries ? 2 : 0].tensor;
  const std::int64_t half = inverse.numel();
  frequencies = inverse.view({1, half, 1}).to(Dtype::float32);
  positions = position_ids.view({1, 1, position_ids.size(1)}).to(Dtype::float32);
  freqs = torch::matmul(frequencies, positions).transpose(1, 2);
  emb = traits.rotary == DecoderTraits::Rotary::halves ? freqs : torch::cat({freqs, freqs}, -1);
  cos = torch::pointwise("cos", {&emb}, Dtype::float32) * 1.0;
  sin = torch::pointwise("sin", {&emb}, Dtype::float32) * 1.0;
  if (traits.rotary == DecoderTraits::Rotary::full_width) {
    return {cos, sin};
  }
  const Dtype dtype = hidden_states.dtype();
  RotaryTables tables;
  tables.cos = cos.to(dtype);
  tables.sin = sin.to(dtype);
  return tables;
}

// -- rotation -------------------------------------------------------------------------------------

namespace {

Tensor rotate_half(const Tensor& x) {
  const std::int64_t width = x.size(-1);
  Locals locals;
  Tensor& x1 = locals.add(x.slice(-1, 0, width / 2));
  Tensor& x2 = locals.add(x.slice(-1, width / 2, width));
  return torch::cat({-x2, x1}, -1);
}

Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  Tensor with_cos = x * cos;
  Tensor with_sin = rotate_half(x) * sin;
  return std::move(with_cos) + std::move(with_sin);
}

Tensor rotated_halves(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  torch::TensorList halves = torch::chunk(x, 2, -1);
  Locals locals;
  Tensor& first_half = locals.add(std::move(halves[0]));
  Tensor& second_half = locals.add(std::move(halves[1]));
  halves.clear();
  Tensor& first = locals.add();
  Tensor& second = locals.add();
  {
    Tensor left = first_half * cos;
    Tensor right = second_half * sin;
    first = std::move(left) - std::move(right);
  }
  {
    Tensor left = second_half * cos;
    Tensor right = first_half * sin;
    second = std::move(left) + std::move(right);
  }
  return torch::cat({first, second}, -1);
}

/// apply_rotary_pos_emb_interleave for one of q and k, on even and odd dimensions.
Tensor rotated_pairs(const Tensor& even, const Tensor& odd, const Tensor& cos, const Tensor& sin) {
  torch::TensorList parts;
  {
    Tensor left = even * cos;
    Tensor right = odd * sin;
    parts.push_back(std::move(left) - std::move(right));
  }
  {
    Tensor left = odd * cos;
    Tensor right = even * sin;
    parts.push_back(std::move(left) + std::move(right));
  }
  return torch::cat(parts, -1);
}

/// A slice of all of a dimension is an alias.
Tensor leading(const Tensor& x, std::int64_t width) {
  return width == x.size(-1) ? x.view(x.sizes()) : x.slice(-1, 0, width);
}

void rotate_partially(Tensor& query, Tensor& key, const Tensor& cos, const Tensor& sin) {
  const std::int64_t width = cos.size(-1);
  Locals locals;
  Tensor& q_rot = locals.add(leading(query, width));
  Tensor& q_pass = locals.add(query.slice(-1, width, query.size(-1)));
  Tensor& k_rot = locals.add(leading(key, width));
  Tensor& k_pass = locals.add(key.slice(-1, width, key.size(-1)));
  Tensor& q_embed = locals.add();
  Tensor& k_embed = locals.add();
  q_embed = torch::cat({rotated(q_rot, cos, sin), q_pass}, -1);
  k_embed = torch::cat({rotated(k_rot, cos, sin), k_pass}, -1);
  query = q_embed;
  key = k_embed;
}

void rotate_interleaved(Tensor& query, Tensor& key, const RotaryTables& positions) {
  const std::int64_t half = positions.cos.size(-1) / 2;
  Locals locals;
  const Tensor cos = positions.cos.slice(-1, 0, half).unsqueeze(1);
  const Tensor sin = positions.sin.slice(-1, 0, half).unsqueeze(1);
  Tensor& q1 = locals.add(query.every(-1, 0, 2));
  Tensor& q2 = locals.add(query.every(-1, 1, 2));
  Tensor& k1 = locals.add(key.every(-1, 0, 2));
  Tensor& k2 = locals.add(key.every(-1, 1, 2));
  Tensor q_embed = rotated_pairs(q1, q2, cos, sin);
  Tensor k_embed = rotated_pairs(k1, k2, cos, sin);
  query = std::move(q_embed);
  key = std::move(k_embed);
}

}  // namespace

void rotate(Tensor& query, Tensor& key, const RotaryTables& positions,
            DecoderTraits::Rotary rotary) {
  if (rotary == DecoderTraits::Rotary::interleaved) {
    rotate_interleaved(query, key, positions);
    return;
  }
  const Tensor cos = positions.cos.unsqueeze(1);
  const Tensor sin = positions.sin.unsqueeze(1);
  if (rotary == DecoderTraits::Rotary::partial) {
    rotate_partially(query, key, cos, sin);
    return;
  }
  const bool halves = rotary == DecoderTraits::Rotary::halves;
  Tensor q_embed = halves ? rotated_halves(query, cos, sin) : rotated(query, cos, sin);
  Tensor k_embed = halves ? rotated_halves(key, cos, sin) : rotated(key, cos, sin);
  if (rotary == DecoderTraits::Rotary::full_width) {
    Tensor q_cast = q_embed.to(query.dtype());
    Tensor k_cast = k_embed.to(key.dtype());
    q_embed = std::move(q_cast);
    k_embed = std::move(k_cast);
  }
  query = std::move(q_embed);
  key = std::move(k_embed);
}

// -- attention functions --------------------------------------------------------------------------

namespace {

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
                                const DecoderAttentionCall& all) {
  const AttentionCall& call = all.call;
  Locals locals;
  Tensor& key_states = locals.add(repeat_kv(key, all.groups));
  Tensor& value_states = locals.add(repeat_kv(value, all.groups));
  Tensor& weights = locals.add();
  Tensor& output = locals.add();
  weights = torch::matmul(query, key_states.transpose(2, 3)) * 1.0;
  if (all.soft_cap) {
    weights = weights / 1.0;
    weights = torch::tanh(weights);
    weights = weights * 1.0;
  }
  if (call.mask.defined()) {
    weights = weights + call.mask;
  }
  weights = torch::softmax(weights, Dtype::float32).to(query.dtype());
  weights = torch::dropout(weights, call.dropout, call.training);
  output = torch::matmul(weights, value_states);
  output = output.transpose(1, 2).contiguous();
  return {output, weights};
}

/// gpt-oss: one more column of scores, which is dropped after the softmax.
AttentionResult attention_with_sinks(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const DecoderAttentionCall& all) {
  const AttentionCall& call = all.call;
  Locals locals;
  Tensor& key_states = locals.add(repeat_kv(key, all.groups));
  Tensor& value_states = locals.add(repeat_kv(value, all.groups));
  Tensor& weights = locals.add();
  Tensor& sinks = locals.add();
  Tensor& combined = locals.add();
  Tensor& probabilities = locals.add();
  Tensor& scores = locals.add();
  Tensor& output = locals.add();
  weights = torch::matmul(query, key_states.transpose(2, 3)) * 1.0;
  if (call.mask.defined()) {
    weights = weights + call.mask;
  }
  sinks = all.sinks.reshape({1, -1, 1, 1}).expand({query.size(0), -1, query.size(2), -1});
  combined = torch::cat({weights, sinks}, -1);
  {
    Tensor largest = torch::max(combined).values;  // the indices go at once
    combined = combined - std::move(largest);
  }
  probabilities = torch::softmax(combined, combined.dtype());
  scores = probabilities.slice(-1, 0, probabilities.size(-1) - 1);
  weights = torch::dropout(scores, call.dropout, call.training).to(value_states.dtype());
  output = torch::matmul(weights, value_states);
  output = output.transpose(1, 2).contiguous();
  return {output, weights};
}

/// sdpa_attention_forward.
AttentionResult sdpa_attention(const Tensor& query, const Tensor& key_argument,
                               const Tensor& value_argument, const DecoderAttentionCall& all) {
  const AttentionCall& call = all.call;
  Locals locals;
  Tensor& key = locals.add(key_argument);
  Tensor& value = locals.add(value_argument);
  bool enable_gqa = false;
  if (all.groups > 1) {
    constexpr std::int64_t kWidest = 256;  // use_gqa_in_sdpa
    enable_gqa = !call.mask.defined() && key.size(-1) <= kWidest;
    if (!enable_gqa) {
      key = repeat_kv(key, all.groups);
      value = repeat_kv(value, all.groups);
    }
  }
  const bool causal = call.causal && query.size(2) > 1 && !call.mask.defined();
  Tensor& output = locals.add();
  output = torch::scaled_dot_product_attention(
      query, key, value, {call.mask, call.training ? call.dropout : 0.0, causal, enable_gqa});
  output = output.transpose(1, 2).contiguous();
  return {output, {}};
}

}  // namespace

AttentionResult decoder_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                  const DecoderAttentionCall& call) {
  if (call.sinks.defined()) {
    return attention_with_sinks(query, key, value, call);
  }
  return call.call.implementation == Attention::eager ? eager_attention(query, key, value, call)
                                                      : sdpa_attention(query, key, value, call);
}

// -- attention ------------------------------------------------------------------------------------

DecoderAttention::DecoderAttention(Module* parent, std::string_view name, const ModelConfig& c,
                                   Attention kind, bool rotary)
    : ModuleOf{parent, name},
      config_{c},
      traits_{*c.family->decoder},
      implementation_{kind},
      rotary_{rotary} {
  const auto linear = [&](std::string_view projection, std::int64_t in, std::int64_t out,
                          bool bias) {
    return std::make_unique<torch::Linear>(this, projection, in, out, bias);
  };
  const std::int64_t queries = c.heads * c.head_dim;
  const std::int64_t keys = c.key_value_heads * c.head_dim;
  if (traits_.fused_projections) {
    o_proj_ = linear("o_proj", queries, c.hidden_size, false);
    qkv_proj_ = linear("qkv_proj", c.hidden_size, queries + 2 * keys, false);
  } else {
    q_proj_ = linear("q_proj", c.hidden_size, queries, c.qkv_bias);
    k_proj_ = linear("k_proj", c.hidden_size, keys, c.qkv_bias);
    v_proj_ = linear("v_proj", c.hidden_size, keys, c.qkv_bias);
    o_proj_ = linear("o_proj", queries, c.hidden_size, c.output_bias);
  }
  if (traits_.query_key_norm != DecoderTraits::QueryKeyNorm::none) {
    const bool whole = traits_.query_key_norm == DecoderTraits::QueryKeyNorm::whole;
    q_norm_ = std::make_unique<RMSNorm>(this, "q_norm", whole ? queries : c.head_dim, traits_.norm);
    k_norm_ = std::make_unique<RMSNorm>(this, "k_norm", whole ? keys : c.head_dim, traits_.norm);
  }
  if (traits_.sinks) {
    sinks_ = add_parameter("sinks", {c.heads});
  }
}

/// Queries, keys and values as [batch, heads, seq, size]. `fused` is a name of the frame.
void DecoderAttention::project(const Tensor& hidden_states, Tensor& query, Tensor& key,
                               Tensor& value, Tensor& fused) {
  using Norm = DecoderTraits::QueryKeyNorm;
  const torch::Shape shape{hidden_states.size(0), hidden_states.size(1), -1, config_.head_dim};
  if (traits_.fused_projections) {
    const std::int64_t queries = config_.heads * config_.head_dim;
    const std::int64_t keys = config_.key_value_heads * config_.head_dim;
    fused = (*qkv_proj_)(hidden_states);
    query = fused.slice(-1, 0, queries);
    key = fused.slice(-1, queries, queries + keys);
    value = fused.slice(-1, queries + keys, queries + 2 * keys);
    query = query.view(shape).transpose(1, 2);
    key = key.view(shape).transpose(1, 2);
    value = value.view(shape).transpose(1, 2);
    return;
  }
  switch (traits_.query_key_norm) {
    case Norm::none:
    case Norm::heads_transposed:
      query = (*q_proj_)(hidden_states).view(shape).transpose(1, 2);
      key = (*k_proj_)(hidden_states).view(shape).transpose(1, 2);
      value = (*v_proj_)(hidden_states).view(shape).transpose(1, 2);
      break;
    case Norm::heads:
      query = (*q_norm_)((*q_proj_)(hidden_states).view(shape)).transpose(1, 2);
      key = (*k_norm_)((*k_proj_)(hidden_states).view(shape)).transpose(1, 2);
      value = (*v_proj_)(hidden_states).view(shape).transpose(1, 2);
      break;
    case Norm::whole:
      query = (*q_norm_)((*q_proj_)(hidden_states));
      key = (*k_norm_)((*k_proj_)(hidden_states));
      value = (*v_proj_)(hidden_states);
      query = query.view(shape).transpose(1, 2);
      key = key.view(shape).transpose(1, 2);
      value = value.view(shape).transpose(1, 2);
      break;
  }
  if (traits_.query_key_norm == Norm::heads_transposed) {
    query = (*q_norm_)(query);
    key = (*k_norm_)(key);
  }
}

AttentionResult DecoderAttention::forward(const Tensor& hidden_states,
                                          const RotaryTables& positions, const Tensor& mask,
                                          KeyValueCache* cache) {
  Locals locals;
  Tensor& fused = locals.add();
  Tensor& query = locals.add();
  Tensor& key = locals.add();
  Tensor& value = locals.add();
  Tensor& output = locals.add();
  Tensor& weights = locals.add();
  project(hidden_states, query, key, value, fused);
  if (rotary_) {
    rotate(query, key, positions, traits_.rotary);
  }
  if (cache != nullptr) {
    cache->update(key, value);
  }
  {
    AttentionResult result = decoder_attention(
        query, key, value,
        {.call = {implementation_, config_.attention_dropout, true, training, mask},
         .groups = config_.heads / config_.key_value_heads,
         .soft_cap = traits_.eager_soft_cap && config_.decoder.softcap_scores,
         .sinks = sinks_});
    output = std::move(result.output);
    weights = std::move(result.weights);
  }
  output = output.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
  output = (*o_proj_)(output);
  return {output, weights};
}

// -- feed-forward ---------------------------------------------------------------------------------

GatedMLP::GatedMLP(Module* parent, std::string_view name, const ModelConfig& c, std::int64_t width)
    : ModuleOf{parent, name},
      gate_proj{this, "gate_proj", c.hidden_size, width, c.mlp_bias},
      up_proj{this, "up_proj", c.hidden_size, width, c.mlp_bias},
      down_proj{this, "down_proj", width, c.hidden_size, c.mlp_bias},
      act_fn{this, "act_fn", [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {
}

Tensor GatedMLP::forward(const Tensor& x) {
  Tensor activated = gate_proj(x);
  activated = act_fn(std::exchange(activated, {}));
  Tensor up = up_proj(x);
  Tensor product = std::move(activated) * std::move(up);
  return down_proj(std::move(product));
}

FusedGatedMLP::FusedGatedMLP(Module* parent, std::string_view name, const ModelConfig& c)
    : ModuleOf{parent, name},
      gate_up_proj{this, "gate_up_proj", c.hidden_size, 2 * c.intermediate_size, false},
      down_proj{this, "down_proj", c.intermediate_size, c.hidden_size, false},
      activation_fn{this, "activation_fn",
                    [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {}

Tensor FusedGatedMLP::forward(const Tensor& x) {
  Locals locals;
  Tensor& up_states = locals.add(gate_up_proj(x));
  Tensor& gate = locals.add();
  {
    torch::TensorList halves = torch::chunk(up_states, 2, -1);
    gate = std::move(halves[0]);
    up_states = std::move(halves[1]);
  }
  up_states = up_states * activation_fn(gate);
  return down_proj(up_states);
}

}  // namespace peakcast::models
