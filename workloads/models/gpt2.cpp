#include <array>
#include <utility>

#include "workloads/config_fields.hpp"
#include "workloads/models/activation.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/models/families.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/torch/checkpoint.hpp"

namespace peakcast::models {
namespace {

using torch::Dropout;
using torch::Embedding;
using torch::LayerNorm;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;

/// transformers' Conv1D: a linear layer with weight [in, out].
struct Conv1D : ModuleOf<Conv1D> {
  Conv1D(Module* parent, std::string_view name, std::int64_t in, std::int64_t out)
      : ModuleOf{parent, name},
        weight{add_parameter("weight", {in, out})},
        bias{add_parameter("bias", {out})} {}
  Tensor forward(const Tensor& input) {
    torch::Shape sizes = input.sizes();
    sizes[sizes.size() - 1] = bias.numel();
    return torch::addmm(bias, input.view({-1, input.size(-1)}), weight).view(sizes);
  }
  Tensor weight;
  Tensor bias;
};

/// gpt2's eager_attention_forward.
AttentionResult eager_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const AttentionCall& call) {
  Locals locals;
  Tensor& weights = locals.add(torch::matmul(query, key.transpose(-1, -2)) * 1.0);
  Tensor& output = locals.add();
  if (call.mask.defined()) {
    weights = weights + call.mask;
  }
  weights = torch::softmax(weights);
  weights = weights.to(value.dtype());
  weights = torch::dropout(weights, call.dropout, call.training);
  output = torch::matmul(weights, value);
  output = output.transpose(1, 2);
  return {output, weights};
}

struct GPT2Attention : ModuleOf<GPT2Attention> {
  GPT2Attention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        c_attn{this, "c_attn", c.hidden_size, 3 * c.hidden_size},
        c_proj{this, "c_proj", c.hidden_size, c.hidden_size},
        resid_dropout{this, "resid_dropout", c.hidden_dropout},
        head_dim{c.head_dim},
        dropout_p{c.attention_dropout},
        implementation{kind} {}

  AttentionResult forward(const Tensor& hidden_states, const Tensor& mask, KeyValueCache* cache) {
    const std::int64_t width = hidden_states.size(-1);
    const torch::Shape shape{hidden_states.size(0), hidden_states.size(1), -1, head_dim};
    Locals locals;
    Tensor& query = locals.add();
    Tensor& key = locals.add();
    Tensor& value = locals.add();
    Tensor& output = locals.add();
    Tensor& weights = locals.add();
    {
      torch::TensorList pieces = torch::split(c_attn(hidden_states), {width, width, width}, 2);
      query = std::move(pieces[0]);
      key = std::move(pieces[1]);
      value = std::move(pieces[2]);
    }
    key = key.view(shape).transpose(1, 2);
    value = value.view(shape).transpose(1, 2);
    query = query.view(shape).transpose(1, 2);
    if (cache != nullptr) {
      cache->update(key, value);
    }
    {
      const AttentionCall call{implementation, dropout_p, !mask.defined(), training, mask};
      AttentionResult result = implementation == Attention::eager
                                   ? eager_attention(query, key, value, call)
                                   : attention_with_weights(query, key, value, call);
      output = std::move(result.output);
      weights = std::move(result.weights);
    }
    output = output.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
    output = c_proj(output);
    output = resid_dropout(output);
    return {output, weights};
  }
  Conv1D c_attn;
  Conv1D c_proj;
  Dropout resid_dropout;
  std::int64_t head_dim;
  double dropout_p;
  Attention implementation;
};

struct GPT2MLP : ModuleOf<GPT2MLP> {
  GPT2MLP(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        c_fc{this, "c_fc", c.hidden_size, c.intermediate_size},
        c_proj{this, "c_proj", c.intermediate_size, c.hidden_size},
        act{this, "act", [kind = c.activation](const Tensor& x) { return activate(kind, x); }},
        dropout{this, "dropout", c.hidden_dropout} {}
  Tensor forward(const Tensor& input) {
    Tensor hidden_states = c_fc(input);
    hidden_states = act(hidden_states);
    hidden_states = c_proj(hidden_states);
    hidden_states = dropout(hidden_states);
    return hidden_states;
  }
  Conv1D c_fc;
  Conv1D c_proj;
  torch::FunctionModule act;
  Dropout dropout;
};

struct GPT2Block : ModuleOf<GPT2Block> {
  GPT2Block(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        ln_1{this, "ln_1", c.hidden_size},
        attn{this, "attn", c, kind},
        ln_2{this, "ln_2", c.hidden_size},
        mlp{this, "mlp", c} {}
  [[nodiscard]] std::string_view type_name() const override { return "GPT2Block"; }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }

  Tensor forward(const Tensor& input, const Tensor& mask, KeyValueCache* cache) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& residual = locals.add();
    Tensor& attn_output = locals.add();
    Tensor& attn_weights = locals.add();  // the frame's "_"
    Tensor& feed_forward = locals.add();
    residual = hidden_states;
    hidden_states = ln_1(hidden_states);
    {
      AttentionResult result = attn(hidden_states, mask, cache);
      attn_output = std::move(result.output);
      attn_weights = std::move(result.weights);
    }
    hidden_states = attn_output + residual;
    residual = hidden_states;
    hidden_states = ln_2(hidden_states);
    feed_forward = mlp(hidden_states);
    hidden_states = residual + feed_forward;
    return hidden_states;
  }
  LayerNorm ln_1;
  GPT2Attention attn;
  LayerNorm ln_2;
  GPT2MLP mlp;
};

struct GPT2Model : ModuleOf<GPT2Model> {
  GPT2Model(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        wte{this, "wte", c.vocab_size, c.hidden_size},
        wpe{this, "wpe", c.max_positions, c.hidden_size},
        drop{this, "drop", c.embedding_dropout},
        h{this, "h"},
        ln_f{this, "ln_f", c.hidden_size},
        implementation{kind},
        use_cache{c.use_cache} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      h.append(c, kind);
    }
  }

  BaseOutput forward(const Tensor& input_ids) {
    const bool caching = use_cache;
    KeyValueCache cache;
    Locals locals;
    Tensor& position_ids = locals.add();
    Tensor& inputs_embeds = locals.add();
    Tensor& position_embeds = locals.add();
    Tensor& hidden_states = locals.add();
    Tensor& mask = locals.add();
    inputs_embeds = wte(input_ids);
    position_ids = make_position_ids(inputs_embeds.size(1));
    position_embeds = wpe(position_ids);
    hidden_states = inputs_embeds + position_embeds;
    mask = causal_mask(inputs_embeds, position_ids,
                       {.implementation = implementation, .with_cache = caching});
    hidden_states = drop(hidden_states);
    for (const auto& block : h) {
      if (checkpointing == Checkpoint::none) {
        hidden_states = (*block)(hidden_states, mask, caching ? &cache : nullptr);
      } else {
        torch::TensorList arguments{hidden_states};
        if (mask.defined()) {
          arguments.push_back(mask);
        }
        hidden_states = torch::checkpoint(
            // What is not positional rides along in a partial: the positions too.
            [&module = *block, position_ids](const torch::TensorList& given) {
              return module(given[0], given.size() > 1 ? given[1] : Tensor{}, nullptr);
            },
            std::move(arguments), checkpointing == Checkpoint::full_reentrant);
      }
    }
    hidden_states = ln_f(hidden_states);
    hidden_states = hidden_states.view(hidden_states.sizes());
    return {hidden_states, std::move(cache)};
  }
  Embedding wte;
  Embedding wpe;
  Dropout drop;
  ModuleList<GPT2Block> h;
  LayerNorm ln_f;
  Attention implementation;
  bool use_cache;
  Checkpoint checkpointing{};
};

class GPT2 final : public LanguageModel {
 public:
  GPT2(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""},
        config_{c},
        transformer_{this, "transformer", c, kind},
        lm_head_{this, "lm_head", c.hidden_size, c.vocab_size, false} {
    if (c.tie_word_embeddings) {
      lm_head_.weight = transformer_.wte.weight;
      lm_head_.own_parameters[0].tensor = transformer_.wte.weight;
    }
  }
  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    return causal_lm_inputs(shape);
  }
  ModelOutput call(const Batch& batch) override {
    Locals locals;
    BaseOutput outputs = transformer_(batch.at("input_ids"));
    Tensor& hidden_states = locals.add(outputs.last_hidden_state);
    Tensor& logits = locals.add();
    Tensor& loss = locals.add();
    // hidden_states[:, slice(0, None), :] is an alias of all of it.
    logits = lm_head_(hidden_states.view(hidden_states.sizes()));
    loss = causal_lm_loss(logits, batch.at("labels"), config_.vocab_size);
    return {loss, {}, logits, std::move(outputs.cache.tensors)};
  }
  void enable_checkpointing(Checkpoint kind) override { transformer_.checkpointing = kind; }

 private:
  ModelConfig config_;
  GPT2Model transformer_;
  Linear lm_head_;
};

void read(ConfigFields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, ConfigFields::kMaxVocabulary);
  config.hidden_size =
      fields.size({"n_embd", "hidden_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.layers =
      fields.size({"n_layer", "num_hidden_layers"}, std::nullopt, ConfigFields::kMaxLayers);
  config.heads =
      fields.size({"n_head", "num_attention_heads"}, std::nullopt, ConfigFields::kMaxWidth);
  config.intermediate_size =
      fields.size({"n_inner"}, std::min(4 * config.hidden_size, ConfigFields::kMaxWidth),
                  ConfigFields::kMaxWidth);
  config.max_positions =
      fields.size({"n_positions", "max_position_embeddings"}, 1024, ConfigFields::kMaxPositions);
  config.activation = fields.activation("activation_function", "gelu_new");
  config.hidden_dropout = fields.probability({"resid_pdrop"}, 0.1);
  config.embedding_dropout = fields.probability({"embd_pdrop"}, 0.1);
  config.attention_dropout = fields.probability({"attn_pdrop"}, 0.1);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  fields.only("add_cross_attention", false);
  fields.only("reorder_and_upcast_attn", false);
  fields.divides("n_head", config.heads, "n_embd", config.hidden_size);
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<GPT2>(config, attention);
}

constexpr std::array<Head, 1> kHeads{{
    {"GPT2LMHeadModel", Task::causal_lm},
}};

}  // namespace

/// Source: transformers 5.17, models/gpt2/modeling_gpt2.py.
const Family kGpt2{
    .name = "gpt2",
    .heads = kHeads,
    .read = read,
    .make = make,
    .positions = Positions::table,
    .positions_key = "n_positions",
};

}  // namespace peakcast::models
