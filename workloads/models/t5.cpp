#include <array>
#include <optional>
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
using torch::Dtype;
using torch::Embedding;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;
using torch::TensorList;

/// Mean square, not mean and variance; in fp32, no bias.
struct T5LayerNorm : ModuleOf<T5LayerNorm> {
  T5LayerNorm(Module* parent, std::string_view name, std::int64_t size)
      : ModuleOf{parent, name}, weight{add_parameter("weight", {size})} {}
  Tensor forward(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& variance =
        locals.add(torch::mean(torch::pow(hidden_states.to(Dtype::float32), 2.0), {-1}, true));
    hidden_states = hidden_states * torch::rsqrt(variance + 1e-6);
    if (is_half(weight.dtype())) {
      hidden_states = hidden_states.to(weight.dtype());
    }
    return weight * hidden_states;
  }
  Tensor weight;
};

/// What an attention module of T5 returns: its output, the bias it used, for the next layers, and
/// the weights (eager only), which every frame on the way up holds for a while.
struct T5AttentionOutput {
  Tensor output{};
  Tensor position_bias{};
  Tensor weights{};
  TensorList take_tensors() {
    return {std::move(output), std::move(position_bias), std::move(weights)};
  }
  void put_tensors(TensorList tensors) {
    output = std::move(tensors[0]);
    position_bias = std::move(tensors[1]);
    weights = std::move(tensors[2]);
  }
};

struct T5Attention : ModuleOf<T5Attention> {
  struct Kind {
    bool decoder{};
    bool cross{};
    bool relative_bias{};
  };
  T5Attention(Module* parent, std::string_view name, const ModelConfig& c, Kind which,
              Attention attention)
      : ModuleOf{parent, name},
        q{this, "q", c.hidden_size, c.heads * c.head_dim, false},
        k{this, "k", c.hidden_size, c.heads * c.head_dim, false},
        v{this, "v", c.hidden_size, c.heads * c.head_dim, false},
        o{this, "o", c.heads * c.head_dim, c.hidden_size, false},
        heads{c.heads},
        head_dim{c.head_dim},
        dropout_p{c.hidden_dropout},
        kind{which},
        implementation{attention} {
    if (kind.relative_bias) {
      relative_attention_bias =
          std::make_unique<Embedding>(this, "relative_attention_bias", c.relative_buckets, c.heads);
    }
  }

  /// _relative_position_bucket: a dozen element-wise steps on [query, key] integers.
  [[nodiscard]] Tensor bucket(const Tensor& position) const {
    const torch::GradMode no_grad{false};
    Locals locals;
    Tensor& relative_position = locals.add(position);
    Tensor& is_small = locals.add();
    Tensor& if_large = locals.add();
    Tensor buckets;
    if (!kind.decoder) {
      Tensor positive = torch::pointwise("gt", {&relative_position}, Dtype::boolean);
      Tensor as_long = positive.to(Dtype::int64);
      positive.reset();
      Tensor scaled = as_long * torch::integer(1);
      as_long.reset();
      buckets = scaled + torch::integer(0);
      scaled.reset();
      relative_position = torch::pointwise("abs", {&relative_position}, Dtype::int64);
    } else {
      Tensor zeros = torch::empty_like(relative_position);
      Tensor least = torch::pointwise("minimum", {&relative_position, &zeros}, Dtype::int64);
      zeros.reset();
      relative_position = torch::neg(std::move(least));
    }
    is_small = torch::pointwise("lt", {&relative_position}, Dtype::boolean);
    Tensor step = relative_position.to(Dtype::float32) / 1.0;
    step = torch::pointwise("log", {&step}, Dtype::float32);
    step = step / 1.0;
    step = step * 1.0;
    step = step.to(Dtype::int64);
    if_large = step + torch::integer(0);
    step.reset();
    {
      Tensor full = torch::empty_like(if_large);
      Tensor least = torch::pointwise("minimum", {&if_large, &full}, Dtype::int64);
      full.reset();
      if_large = std::move(least);
    }
    Tensor chosen =
        torch::pointwise("where", {&is_small, &relative_position, &if_large}, Dtype::int64);
    if (buckets.defined()) {
      torch::in_place("add_", buckets, {&chosen});
      chosen.reset();
    } else {
      buckets = chosen + torch::integer(0);
      chosen.reset();
    }
    return buckets;
  }

  Tensor compute_bias(std::int64_t queries, std::int64_t keys) {
    Locals locals;
    Tensor& context_position = locals.add();
    Tensor& memory_position = locals.add();
    Tensor& relative_position = locals.add();
    Tensor& buckets = locals.add();
    context_position = torch::arange(queries).unsqueeze(1) + torch::integer(0);
    memory_position = torch::arange(keys).unsqueeze(0);
    relative_position = memory_position - context_position;
    buckets = bucket(relative_position);
    Tensor values = (*relative_attention_bias)(buckets);
    return std::move(values).permute({2, 0, 1}).unsqueeze(0);
  }

  T5AttentionOutput forward(const Tensor& hidden_states, const Tensor& mask,
                            const Tensor& key_value_states, const Tensor& given_bias) {
    const torch::Shape query_shape{hidden_states.size(0), hidden_states.size(1), -1, head_dim};
    const Tensor& source = kind.cross ? key_value_states : hidden_states;
    const torch::Shape key_shape{source.size(0), source.size(1), -1, head_dim};
    Locals locals;
    Tensor& position_bias = locals.add(given_bias);
    Tensor& query = locals.add();
    Tensor& key = locals.add();
    Tensor& value = locals.add();
    Tensor& out = locals.add();
    Tensor& weights = locals.add();
    query = q(hidden_states).view(query_shape).transpose(1, 2);
    key = k(source).view(key_shape).transpose(1, 2);
    value = v(source).view(key_shape).transpose(1, 2);
    if (!position_bias.defined()) {
      if (kind.relative_bias) {
        position_bias = compute_bias(query.size(2), key.size(2));
      } else {
        const torch::OpScope scope{"zeros"};
        position_bias = torch::empty({1, heads, query.size(2), key.size(2)}, query.dtype());
        if (gradient_checkpointing && training) {
          position_bias.set_requires_grad(true);  // a leaf whose gradient nobody reads
        }
      }
    }
    {
      AttentionResult result = attend(query, key, value, mask, position_bias);
      out = std::move(result.output);
      weights = std::move(result.weights);
    }
    out = out.reshape({hidden_states.size(0), hidden_states.size(1), -1});
    out = o(out);
    return {out, position_bias, weights};
  }

  /// The attention function with T5's bias. For sdpa a decoder's bias is masked to the causal half
  /// (create_position_bias_mask); the eager one adds the bias, then the mask.
  [[nodiscard]] AttentionResult attend(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const Tensor& mask, const Tensor& bias) const {
    if (implementation == Attention::eager) {
      return attention_with_weights(query, key, value,
                                    {implementation, dropout_p, false, training, mask, bias});
    }
    Tensor bias_mask = bias;
    if (kind.decoder && !kind.cross && query.size(2) > 1) {
      Tensor keep;
      {
        const torch::GradMode no_grad{false};
        const Tensor rows = torch::arange(query.size(2)).unsqueeze(1);
        const Tensor columns = torch::arange(key.size(2)).unsqueeze(0);
        Tensor causal = torch::pointwise("ge", {&rows, &columns}, Dtype::boolean);
        keep = std::move(causal);
        release(rows, columns);
      }
      bias_mask = torch::where(keep, bias, 0.0);
    }
    return attention_with_weights(query, key, value,
                                  {implementation, dropout_p, false, training, bias_mask, {}});
  }

  Linear q;
  Linear k;
  Linear v;
  Linear o;
  std::unique_ptr<Embedding> relative_attention_bias{};
  std::int64_t heads;
  std::int64_t head_dim;
  double dropout_p;
  Kind kind;
  Attention implementation;
  bool gradient_checkpointing{};

 private:
  /// Temporaries of one Python expression go in the order in which they were made.
  static void release(const Tensor& first, const Tensor& second) {
    const_cast<Tensor&>(first).reset();
    const_cast<Tensor&>(second).reset();
  }
};

struct T5LayerSelfAttention : ModuleOf<T5LayerSelfAttention> {
  T5LayerSelfAttention(Module* parent, std::string_view name, const ModelConfig& c, bool decoder,
                       bool first, Attention attention)
      : ModuleOf{parent, name},
        self_attention{this, "SelfAttention", c, {decoder, false, first}, attention},
        layer_norm{this, "layer_norm", c.hidden_size},
        dropout{this, "dropout", c.hidden_dropout} {}
  T5AttentionOutput forward(const Tensor& hidden_states, const Tensor& mask,
                            const Tensor& position_bias) {
    Locals locals;
    Tensor& normed = locals.add(layer_norm(hidden_states));
    Tensor& attention_output = locals.add();
    Tensor& bias = locals.add();
    Tensor& weights = locals.add();
    {
      T5AttentionOutput result = self_attention(normed, mask, Tensor{}, position_bias);
      attention_output = std::move(result.output);
      bias = std::move(result.position_bias);
      weights = std::move(result.weights);
    }
    attention_output = hidden_states + dropout(attention_output);
    return {attention_output, bias, weights};
  }
  T5Attention self_attention;
  T5LayerNorm layer_norm;
  Dropout dropout;
};

struct T5LayerCrossAttention : ModuleOf<T5LayerCrossAttention> {
  T5LayerCrossAttention(Module* parent, std::string_view name, const ModelConfig& c,
                        Attention attention)
      : ModuleOf{parent, name},
        cross_attention{this, "EncDecAttention", c, {true, true, false}, attention},
        layer_norm{this, "layer_norm", c.hidden_size},
        dropout{this, "dropout", c.hidden_dropout} {}
  T5AttentionOutput forward(const Tensor& hidden_states, const Tensor& encoder_states,
                            const Tensor& position_bias) {
    Locals locals;
    Tensor& normed = locals.add(layer_norm(hidden_states));
    Tensor& attention_output = locals.add();
    Tensor& bias = locals.add();
    Tensor& weights = locals.add();
    Tensor& layer_output = locals.add();
    {
      T5AttentionOutput result = cross_attention(normed, Tensor{}, encoder_states, position_bias);
      attention_output = std::move(result.output);
      bias = std::move(result.position_bias);
      weights = std::move(result.weights);
    }
    layer_output = hidden_states + dropout(attention_output);
    return {layer_output, bias, weights};
  }
  T5Attention cross_attention;
  T5LayerNorm layer_norm;
  Dropout dropout;
};

struct T5DenseActDense : ModuleOf<T5DenseActDense> {
  T5DenseActDense(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name} {
    if (c.gated_mlp) {
      wi_0 = std::make_unique<Linear>(this, "wi_0", c.hidden_size, c.intermediate_size, false);
      wi_1 = std::make_unique<Linear>(this, "wi_1", c.hidden_size, c.intermediate_size, false);
    } else {
      wi_0 = std::make_unique<Linear>(this, "wi", c.hidden_size, c.intermediate_size, false);
    }
    wo = std::make_unique<Linear>(this, "wo", c.intermediate_size, c.hidden_size, false);
    dropout = std::make_unique<Dropout>(this, "dropout", c.hidden_dropout);
    act = std::make_unique<torch::FunctionModule>(
        this, "act", [kind = c.activation](const Tensor& x) { return activate(kind, x); });
  }
  Tensor forward(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& hidden_gelu = locals.add();
    Tensor& hidden_linear = locals.add();
    if (wi_1) {
      hidden_gelu = (*act)((*wi_0)(hidden_states));
      hidden_linear = (*wi_1)(hidden_states);
      hidden_states = hidden_gelu * hidden_linear;
    } else {
      hidden_states = (*wi_0)(hidden_states);
      hidden_states = (*act)(hidden_states);
    }
    hidden_states = (*dropout)(hidden_states);
    // To the weight's type; under autocast that is fp32, and the product casts back.
    hidden_states = hidden_states.to(wo->weight.dtype());
    hidden_states = (*wo)(hidden_states);
    return hidden_states;
  }
  std::unique_ptr<Linear> wi_0{};
  std::unique_ptr<Linear> wi_1{};
  std::unique_ptr<Linear> wo{};
  std::unique_ptr<Dropout> dropout{};
  std::unique_ptr<torch::FunctionModule> act{};
};

struct T5LayerFF : ModuleOf<T5LayerFF> {
  T5LayerFF(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "DenseReluDense", c},
        layer_norm{this, "layer_norm", c.hidden_size},
        dropout{this, "dropout", c.hidden_dropout} {}
  Tensor forward(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& forwarded_states = locals.add(layer_norm(hidden_states));
    forwarded_states = dense(forwarded_states);
    hidden_states = hidden_states + dropout(forwarded_states);
    return hidden_states;
  }
  T5DenseActDense dense;
  T5LayerNorm layer_norm;
  Dropout dropout;
};

/// A block's results: hidden states, the self-attention's bias and the cross-attention's.
struct T5BlockOutput {
  Tensor hidden_states{};
  Tensor position_bias{};
  Tensor cross_bias{};
  TensorList take_tensors() {
    return {std::move(hidden_states), std::move(position_bias), std::move(cross_bias)};
  }
  void put_tensors(TensorList tensors) {
    hidden_states = std::move(tensors[0]);
    position_bias = std::move(tensors[1]);
    cross_bias = std::move(tensors[2]);
  }
};

struct T5Block : ModuleOf<T5Block> {
  T5Block(Module* parent, std::string_view name, const ModelConfig& c, bool is_decoder, bool first,
          Attention attention)
      : ModuleOf{parent, name},
        decoder{is_decoder},
        layer{this, "layer"},
        self_attention{&layer, "0", c, is_decoder, first, attention} {
    if (decoder) {
      cross_attention = std::make_unique<T5LayerCrossAttention>(&layer, "1", c, attention);
    }
    feed_forward = std::make_unique<T5LayerFF>(&layer, decoder ? "2" : "1", c);
  }
  [[nodiscard]] std::string_view type_name() const override { return "T5Block"; }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }

  T5BlockOutput forward(const Tensor& input, const Tensor& mask, const Tensor& position_bias,
                        const Tensor& encoder_states, const Tensor& cross_bias) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& bias = locals.add(position_bias);
    Tensor& weights = locals.add();  // Python's `_`
    Tensor& clamp_value = locals.add();
    Tensor& cross = locals.add(cross_bias);
    {
      T5AttentionOutput result = self_attention(hidden_states, mask, position_bias);
      hidden_states = std::move(result.output);
      bias = std::move(result.position_bias);
      weights = std::move(result.weights);
    }
    clamp_infinities(hidden_states, clamp_value);
    if (decoder) {
      T5AttentionOutput result = (*cross_attention)(hidden_states, encoder_states, cross_bias);
      hidden_states = std::move(result.output);
      cross = std::move(result.position_bias);
      weights = std::move(result.weights);
      clamp_infinities(hidden_states, clamp_value);
    }
    hidden_states = (*feed_forward)(hidden_states);
    clamp_infinities(hidden_states, clamp_value);
    return {hidden_states, bias, cross};
  }
  /// Models in fp16 keep their hidden states within what fp16 can hold.
  static void clamp_infinities(Tensor& hidden_states, Tensor& clamp_value) {
    if (hidden_states.dtype() != Dtype::float16) {
      return;
    }
    {
      Tensor infinite;
      {
        const Tensor magnitude = torch::pointwise("abs", {&hidden_states}, hidden_states.dtype());
        infinite = torch::pointwise("eq", {&magnitude}, Dtype::boolean);
      }
      const Tensor any = torch::all(infinite);
      infinite.reset();
      // Two Python numbers: each becomes a tensor of one fp32 for the call.
      const Tensor less = torch::empty({}, Dtype::float32);
      const Tensor most = torch::empty({}, Dtype::float32);
      clamp_value = torch::pointwise("where", {&any, &less, &most}, Dtype::float32);
    }
    hidden_states = torch::clamp(hidden_states, torch::neg(clamp_value), clamp_value);
  }
  bool decoder;
  Module layer;
  T5LayerSelfAttention self_attention;
  std::unique_ptr<T5LayerCrossAttention> cross_attention{};
  std::unique_ptr<T5LayerFF> feed_forward{};
};

struct T5Stack : ModuleOf<T5Stack> {
  T5Stack(Module* parent, std::string_view name, const ModelConfig& c, bool is_decoder,
          Attention attention)
      : ModuleOf{parent, name},
        decoder{is_decoder},
        implementation{attention},
        embed_tokens{this, "embed_tokens", c.vocab_size, c.hidden_size},
        block{this, "block"} {
    const std::int64_t layers = decoder ? c.decoder_layers : c.layers;
    for (std::int64_t i = 0; i < layers; ++i) {
      block.append(c, decoder, i == 0, attention);
    }
    final_layer_norm = std::make_unique<T5LayerNorm>(this, "final_layer_norm", c.hidden_size);
    dropout = std::make_unique<Dropout>(this, "dropout", c.hidden_dropout);
  }
  void tie(const Tensor& shared) {
    embed_tokens.weight = shared;
    embed_tokens.own_parameters[0].tensor = shared;
  }
  void enable_checkpointing(Checkpoint kind) {
    checkpointing = kind;
    for (const auto& each : block) {
      each->self_attention.self_attention.gradient_checkpointing = kind != Checkpoint::none;
      if (each->cross_attention) {
        each->cross_attention->cross_attention.gradient_checkpointing = kind != Checkpoint::none;
      }
    }
  }
  /// `mask`: the encoder's own 2-D mask, or for the decoder that of the encoder's tokens.
  Tensor forward(const Tensor& input_ids, const Tensor& mask, const Tensor& encoder_states) {
    Locals locals;
    Tensor& attention_mask = locals.add();
    Tensor& inputs_embeds = locals.add(embed_tokens(input_ids));
    if (decoder) {  // no padding mask, no positions: nothing to check for packed sequences
      attention_mask = causal_mask(inputs_embeds, Tensor{}, {.implementation = implementation});
    }
    Tensor& position_bias = locals.add();
    Tensor& cross_bias = locals.add();
    Tensor& hidden_states = locals.add();
    check_bidirectional_mask(mask);
    hidden_states = (*dropout)(inputs_embeds);
    for (const auto& each : block) {
      T5BlockOutput result =
          run(*each, {hidden_states, attention_mask, position_bias, encoder_states, cross_bias});
      hidden_states = std::move(result.hidden_states);
      position_bias = std::move(result.position_bias);
      cross_bias = std::move(result.cross_bias);
    }
    hidden_states = (*final_layer_norm)(hidden_states);
    hidden_states = (*dropout)(hidden_states);
    return hidden_states;
  }
  T5BlockOutput run(T5Block& each, const TensorList& arguments) const {
    const auto call = [&each](const TensorList& a) { return each(a[0], a[1], a[2], a[3], a[4]); };
    if (checkpointing == Checkpoint::none) {
      return call(arguments);
    }
    T5BlockOutput result;
    result.put_tensors(
        torch::checkpoint_many([call](const TensorList& a) { return call(a).take_tensors(); },
                               arguments, checkpointing == Checkpoint::full_reentrant));
    return result;
  }
  bool decoder;
  Attention implementation;
  Embedding embed_tokens;
  ModuleList<T5Block> block;
  std::unique_ptr<T5LayerNorm> final_layer_norm{};
  std::unique_ptr<Dropout> dropout{};
  Checkpoint checkpointing{};
};

class T5 final : public LanguageModel {
 public:
  T5(const ModelConfig& c, Attention attention)
      : LanguageModel{nullptr, ""},
        config_{c},
        shared_{this, "shared", c.vocab_size, c.hidden_size},
        encoder_{this, "encoder", c, false, attention},
        decoder_{this, "decoder", c, true, attention},
        lm_head_{this, "lm_head", c.hidden_size, c.vocab_size, false} {
    encoder_.tie(shared_.weight);
    decoder_.tie(shared_.weight);
    if (c.tie_word_embeddings) {
      lm_head_.weight = shared_.weight;
      lm_head_.own_parameters[0].tensor = shared_.weight;
    }
  }

  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    const torch::Shape source{shape.batch, shape.seq};
    return {{"input_ids", source, Dtype::int64},
            {"attention_mask", source, Dtype::int64},
            {"labels", {shape.batch, target_seq.value_or(shape.seq)}, Dtype::int64}};
  }

  ModelOutput call(const Batch& batch) override {
    Locals locals;
    const Tensor labels = batch.at("labels");
    Tensor& encoder_states =
        locals.add(encoder_(batch.at("input_ids"), batch.at("attention_mask"), Tensor{}));
    Tensor& decoder_ids = locals.add(shift_right(labels));
    Tensor& decoder_states =
        locals.add(decoder_(decoder_ids, batch.at("attention_mask"), encoder_states));
    Tensor& sequence_output = locals.add(decoder_states);
    Tensor& logits = locals.add();
    if (config_.scale_decoder_outputs) {
      sequence_output = sequence_output * 1.0;  // by the square root of the width
    }
    logits = lm_head_(sequence_output);
    Tensor loss = torch::cross_entropy(logits.view({-1, config_.vocab_size}), labels.view({-1}));
    return {loss, {}, logits, {encoder_states}};
  }

  void enable_checkpointing(Checkpoint kind) override {
    encoder_.enable_checkpointing(kind);
    decoder_.enable_checkpointing(kind);
  }

 private:
  static Tensor shift_right(const Tensor& labels) {
    const torch::GradMode no_grad{false};
    Tensor shifted = torch::empty(labels.sizes(), labels.dtype());
    torch::clone(labels.slice(1, 0, -1)).reset();
    torch::pointwise("eq", {&shifted}, Dtype::boolean).reset();
    return shifted;
  }
  ModelConfig config_;
  Embedding shared_;
  T5Stack encoder_;
  T5Stack decoder_;
  Linear lm_head_;
};

void read(ConfigFields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, ConfigFields::kMaxVocabulary);
  config.hidden_size =
      fields.size({"d_model", "hidden_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.layers =
      fields.size({"num_layers", "num_hidden_layers"}, std::nullopt, ConfigFields::kMaxLayers);
  config.heads =
      fields.size({"num_heads", "num_attention_heads"}, std::nullopt, ConfigFields::kMaxWidth);
  config.head_dim = fields.size({"d_kv", "head_dim"}, 64, ConfigFields::kMaxWidth);
  config.intermediate_size = fields.size({"d_ff"}, std::nullopt, ConfigFields::kMaxWidth);
  config.decoder_layers =
      fields.size({"num_decoder_layers"}, config.layers, ConfigFields::kMaxLayers);
  config.relative_buckets =
      fields.size({"relative_attention_num_buckets"}, 32, std::int64_t{1} << 20);
  config.max_positions =
      ConfigFields::kMaxPositions;  // positions are relative: no table bounds them
  config.hidden_dropout = fields.probability({"dropout_rate"}, 0.1);
  config.embedding_dropout = config.attention_dropout = config.hidden_dropout;
  // transformers 5 ties T5's embeddings whatever the config says (T5Config.__post_init__); the key
  // only decides whether the decoder's output is scaled.
  config.scale_decoder_outputs = fields.boolean({"tie_word_embeddings"}, true);
  config.tie_word_embeddings = true;
  const std::string feed_forward = fields.text({"feed_forward_proj"}, "relu");
  constexpr std::string_view kGated = "gated-";
  config.gated_mlp = feed_forward.starts_with(kGated);
  const std::string activation =
      config.gated_mlp ? feed_forward.substr(kGated.size()) : feed_forward;
  // As T5Config.__post_init__: "gated-gelu" means gelu_new.
  config.activation = fields.activation_from(
      "feed_forward_proj", feed_forward == "gated-gelu" ? "gelu_new" : activation);
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<T5>(config, attention);
}

constexpr std::array<Head, 1> kHeads{{
    {"T5ForConditionalGeneration", Task::seq2seq},
}};

}  // namespace

/// Source: transformers 5.17, models/t5/modeling_t5.py.
const Family kT5{
    .name = "t5",
    .heads = kHeads,
    .read = read,
    .make = make,
    .positions = Positions::relative,
    .writes_scores = true,
};

}  // namespace peakcast::models
