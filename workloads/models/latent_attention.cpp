#include "workloads/models/latent_attention.hpp"

#include <utility>

#include "workloads/family.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {

using torch::Locals;
using torch::Module;
using torch::ModuleOf;
using torch::Tensor;
using torch::TensorList;

LatentAttention::LatentAttention(Module* parent, std::string_view name, const ModelConfig& c,
                                 Attention kind)
    : ModuleOf{parent, name}, config_{c}, implementation_{kind} {
  const auto linear = [&](std::string_view projection, std::int64_t in, std::int64_t out,
                          bool bias) {
    return std::make_unique<torch::Linear>(this, projection, in, out, bias);
  };
  const DecoderConfig& d = c.decoder;
  const std::int64_t queries = c.heads * (d.plain_dim + d.rotary_dim);
  if (d.query_rank == 0) {
    q_proj_ = linear("q_proj", c.hidden_size, queries, false);
  } else {
    q_a_proj_ = linear("q_a_proj", c.hidden_size, d.query_rank, c.qkv_bias);
    q_a_layernorm_ = std::make_unique<RMSNorm>(this, "q_a_layernorm", d.query_rank);
    q_b_proj_ = linear("q_b_proj", d.query_rank, queries, false);
  }
  kv_a_proj_ =
      linear("kv_a_proj_with_mqa", c.hidden_size, d.key_value_rank + d.rotary_dim, c.qkv_bias);
  kv_a_layernorm_ = std::make_unique<RMSNorm>(this, "kv_a_layernorm", d.key_value_rank);
  kv_b_proj_ = linear("kv_b_proj", d.key_value_rank, c.heads * (d.plain_dim + d.value_dim), false);
  o_proj_ = linear("o_proj", c.heads * d.value_dim, c.hidden_size, c.output_bias);
}

/// expand_kv: keys are written into one tensor, the part without positions and the shared one.
void LatentAttention::expand(const Tensor& latent, const Tensor& rotary_key, Tensor& keys,
                             Tensor& values) {
  const DecoderConfig& d = config_.decoder;
  Locals locals;
  Tensor& kv_nope = locals.add(latent);
  Tensor& k_rot = locals.add(rotary_key);
  Tensor& k_nope = locals.add();
  Tensor& value_states = locals.add();
  Tensor& key_states = locals.add();
  kv_nope = (*kv_b_proj_)(kv_nope)
                .view({latent.size(0), latent.size(2), -1, d.plain_dim + d.value_dim})
                .transpose(1, 2);
  {
    TensorList parts = torch::split(kv_nope, {d.plain_dim, d.value_dim}, -1);
    k_nope = std::move(parts[0]);
    value_states = std::move(parts[1]);
  }
  k_rot = k_rot.expand({-1, k_nope.size(1), -1, -1});
  key_states =
      torch::empty({kv_nope.size(0), kv_nope.size(1), kv_nope.size(2), d.plain_dim + d.rotary_dim},
                   kv_nope.dtype());
  torch::copy_into_slice(key_states, -1, 0, k_nope);
  torch::copy_into_slice(key_states, -1, d.plain_dim, k_rot);
  keys = key_states;
  values = value_states;
}

AttentionResult LatentAttention::forward(const Tensor& hidden_states, const RotaryTables& positions,
                                         const Tensor& mask, KeyValueCache* cache) {
  const DecoderConfig& d = config_.decoder;
  const std::int64_t batch = hidden_states.size(0);
  const std::int64_t length = hidden_states.size(1);
  Locals locals;
  Tensor& q_states = locals.add();
  Tensor& q_pass = locals.add();
  Tensor& q_rot = locals.add();
  Tensor& compressed = locals.add();
  Tensor& kv_nope = locals.add();
  Tensor& k_rot = locals.add();
  Tensor& query_states = locals.add();
  Tensor& key_states = locals.add();
  Tensor& value_states = locals.add();
  Tensor& output = locals.add();
  Tensor& weights = locals.add();
  q_states = q_proj_ ? (*q_proj_)(hidden_states)
                     : (*q_b_proj_)((*q_a_layernorm_)((*q_a_proj_)(hidden_states)));
  q_states = q_states.view({batch, length, -1, d.plain_dim + d.rotary_dim}).transpose(1, 2);
  {
    TensorList parts = torch::split(q_states, {d.plain_dim, d.rotary_dim}, -1);
    q_pass = std::move(parts[0]);
    q_rot = std::move(parts[1]);
  }
  compressed = (*kv_a_proj_)(hidden_states);
  {
    TensorList parts = torch::split(compressed, {d.key_value_rank, d.rotary_dim}, -1);
    kv_nope = std::move(parts[0]);
    k_rot = std::move(parts[1]);
  }
  kv_nope = (*kv_a_layernorm_)(kv_nope);
  kv_nope = kv_nope.view({batch, 1, length, d.key_value_rank});
  k_rot = k_rot.view({batch, 1, length, d.rotary_dim});
  rotate(q_rot, k_rot, positions, config_.family->decoder->rotary);
  if (cache != nullptr) {
    cache->update(kv_nope, k_rot);
  }
  query_states = torch::cat({q_pass, q_rot}, -1);
  expand(kv_nope, k_rot, key_states, value_states);
  {
    AttentionResult result = decoder_attention(
        query_states, key_states, value_states,
        {.call = {implementation_, config_.attention_dropout, true, training, mask},
         .groups = config_.heads / config_.key_value_heads});
    output = std::move(result.output);
    weights = std::move(result.weights);
  }
  output = output.reshape({batch, length, -1}).contiguous();
  output = (*o_proj_)(output);
  return {output, weights};
}

}  // namespace peakcast::models
