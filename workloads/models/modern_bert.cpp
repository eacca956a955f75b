#include <array>
#include <utility>

#include "workloads/config_fields.hpp"
#include "workloads/models/activation.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/models/decoder_layers.hpp"
#include "workloads/models/families.hpp"
#include "workloads/torch/checkpoint.hpp"

/// ModernBERT: rotary positions, norms before, a gated feed-forward, and windows in two layers of
/// three. Source: transformers 5.17, models/modernbert/modeling_modernbert.py.
namespace peakcast::models {
namespace {

using torch::Dropout;
using torch::Dtype;
using torch::Embedding;
using torch::LayerNorm;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;
using torch::TensorList;

/// Its rotary tables are made as Gemma 3's.
constexpr DecoderTraits kRotary{.two_rotaries = true};

struct ModernEmbeddings : ModuleOf<ModernEmbeddings> {
  ModernEmbeddings(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        tok_embeddings{this, "tok_embeddings", c.vocab_size, c.hidden_size},
        norm{this, "norm", c.hidden_size, c.decoder.norm_bias},
        drop{this, "drop", c.embedding_dropout} {}
  Tensor forward(const Tensor& input_ids) {
    Tensor hidden_states = drop(norm(tok_embeddings(input_ids)));
    return hidden_states;
  }
  Embedding tok_embeddings;
  LayerNorm norm;
  Dropout drop;
};

struct ModernMLP : ModuleOf<ModernMLP> {
  ModernMLP(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        wi{this, "Wi", c.hidden_size, 2 * c.intermediate_size, c.mlp_bias},
        act{this, "act", [kind = c.activation](const Tensor& x) { return activate(kind, x); }},
        drop{this, "drop", c.hidden_dropout},
        wo{this, "Wo", c.intermediate_size, c.hidden_size, c.mlp_bias} {}
  Tensor forward(const Tensor& hidden_states) {
    Locals locals;
    Tensor& input = locals.add();
    Tensor& gate = locals.add();
    {
      TensorList halves = torch::chunk(wi(hidden_states), 2, -1);
      input = std::move(halves[0]);
      gate = std::move(halves[1]);
    }
    return wo(drop(act(input) * gate));
  }
  Linear wi;
  torch::FunctionModule act;
  Dropout drop;
  Linear wo;
};

Tensor rotate_half(const Tensor& x) {
  const std::int64_t width = x.size(-1);
  Locals locals;
  Tensor& x1 = locals.add(x.slice(-1, 0, width / 2));
  Tensor& x2 = locals.add(x.slice(-1, width / 2, width));
  return torch::cat({-x2, x1}, -1);
}

Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  Tensor with_cos = x.to(Dtype::float32) * cos;
  Tensor wide = x.to(Dtype::float32);
  Tensor half = rotate_half(wide);
  wide.reset();
  Tensor with_sin = std::move(half) * sin;
  return std::move(with_cos) + std::move(with_sin);
}

struct ModernAttention : ModuleOf<ModernAttention> {
  ModernAttention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        wqkv{this, "Wqkv", c.hidden_size, 3 * c.hidden_size, c.qkv_bias},
        wo{this, "Wo", c.hidden_size, c.hidden_size, c.output_bias},
        head_dim{c.head_dim},
        dropout_p{c.attention_dropout},
        implementation{kind} {}
  AttentionResult forward(const Tensor& hidden_states, const RotaryTables& positions,
                          const Tensor& mask) {
    const std::int64_t batch = hidden_states.size(0);
    const std::int64_t length = hidden_states.size(1);
    Locals locals;
    Tensor& qkv = locals.add();
    Tensor& query = locals.add();
    Tensor& key = locals.add();
    Tensor& value = locals.add();
    Tensor& output = locals.add();
    Tensor& weights = locals.add();
    qkv = wqkv(hidden_states);
    qkv = qkv.view({batch, length, 3, -1, head_dim});
    {
      TensorList parts = torch::unbind(qkv, -3);
      query = std::move(parts[0]);
      key = std::move(parts[1]);
      value = std::move(parts[2]);
    }
    query = query.transpose(1, 2);
    key = key.transpose(1, 2);
    value = value.transpose(1, 2);
    {  // apply_rotary_pos_emb, in fp32
      const Tensor cos = positions.cos.unsqueeze(1);
      const Tensor sin = positions.sin.unsqueeze(1);
      Tensor q_embed = rotated(query, cos, sin);
      Tensor k_embed = rotated(key, cos, sin);
      Tensor q_cast = q_embed.to(query.dtype());
      Tensor k_cast = k_embed.to(key.dtype());
      q_embed.reset();
      k_embed.reset();
      query = std::move(q_cast);
      key = std::move(k_cast);
    }
    {
      AttentionResult result = decoder_attention(
          query, key, value, {.call = {implementation, dropout_p, false, training, mask}});
      output = std::move(result.output);
      weights = std::move(result.weights);
    }
    output = output.reshape({batch, length, -1}).contiguous();
    output = torch::dropout(wo(output), dropout_p, training);
    return {output, weights};
  }
  Linear wqkv;
  Linear wo;
  std::int64_t head_dim;
  double dropout_p;
  Attention implementation;
};

struct ModernLayer : ModuleOf<ModernLayer> {
  ModernLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind,
              bool first)
      : ModuleOf{parent, name} {
    if (!first) {
      attn_norm =
          std::make_unique<LayerNorm>(this, "attn_norm", c.hidden_size, c.decoder.norm_bias);
    }
    attn = std::make_unique<ModernAttention>(this, "attn", c, kind);
    mlp_norm = std::make_unique<LayerNorm>(this, "mlp_norm", c.hidden_size, c.decoder.norm_bias);
    mlp = std::make_unique<ModernMLP>(this, "mlp", c);
  }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }
  Tensor forward(const Tensor& argument, const RotaryTables& positions, const Tensor& mask) {
    Locals locals;
    Tensor& hidden_states = locals.add(argument);
    Tensor& attn_output = locals.add();
    Tensor& weights = locals.add();  // the frame's "_"
    {
      AttentionResult result =
          (*attn)(attn_norm ? (*attn_norm)(hidden_states) : hidden_states, positions, mask);
      attn_output = std::move(result.output);
      weights = std::move(result.weights);
    }
    hidden_states = hidden_states + attn_output;
    hidden_states = hidden_states + (*mlp)((*mlp_norm)(hidden_states));
    return hidden_states;
  }
  std::unique_ptr<LayerNorm> attn_norm{};
  std::unique_ptr<ModernAttention> attn{};
  std::unique_ptr<LayerNorm> mlp_norm{};
  std::unique_ptr<ModernMLP> mlp{};
};

struct ModernModel : ModuleOf<ModernModel> {
  ModernModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        config{c},
        embeddings{this, "embeddings", c},
        layers{this, "layers"},
        final_norm{this, "final_norm", c.hidden_size, c.decoder.norm_bias},
        rotary_emb{this, "rotary_emb", c.head_dim, kRotary},
        implementation{kind} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layers.append(c, kind, i == 0);
    }
  }
  Tensor forward(const Tensor& input_ids, const Tensor& attention_mask) {
    Locals locals;
    Tensor& position_ids = locals.add();
    Tensor& hidden_states = locals.add();
    Tensor& mask = locals.add();
    Tensor& window_mask = locals.add();
    Tensor& embeds_keyword = locals.add();
    RotaryTables full;
    RotaryTables windowed;
    position_ids = torch::arange(input_ids.size(1)).unsqueeze(0);
    hidden_states = embeddings(input_ids);
    embeds_keyword = hidden_states;
    check_bidirectional_mask(attention_mask);
    window_mask = bidirectional_window_mask(hidden_states, attention_mask, implementation,
                                            *config.sliding_window);
    // Of a Python set: in no order that a rule could tell.
    windowed = rotary_emb(hidden_states, position_ids, true);
    full = rotary_emb(hidden_states, position_ids, false);
    std::size_t index = 0;
    for (const auto& layer : layers) {
      const bool own = config.decoder.windowed[index++];
      run(*layer, hidden_states, own ? windowed : full, own ? window_mask : mask);
    }
    hidden_states = final_norm(hidden_states);
    return hidden_states;
  }
  ModelConfig config;
  ModernEmbeddings embeddings;
  ModuleList<ModernLayer> layers;
  LayerNorm final_norm;
  RotaryEmbedding rotary_emb;
  Attention implementation;
  Checkpoint checkpointing{};

 private:
  void run(ModernLayer& layer, Tensor& hidden_states, const RotaryTables& tables,
           const Tensor& mask) const {
    if (checkpointing == Checkpoint::none) {
      hidden_states = layer(hidden_states, tables, mask);
      return;
    }
    hidden_states = torch::checkpoint(
        [&layer, tables, mask](const TensorList& given) { return layer(given[0], tables, mask); },
        {hidden_states}, checkpointing == Checkpoint::full_reentrant);
  }
};

struct PredictionHead : ModuleOf<PredictionHead> {
  PredictionHead(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "dense", c.hidden_size, c.hidden_size, c.decoder.head_bias},
        norm{this, "norm", c.hidden_size, c.decoder.norm_bias} {}
  Tensor forward(const Tensor& hidden_states) { return norm(torch::gelu(dense(hidden_states))); }
  Linear dense;
  LayerNorm norm;
};

class ModernBert final : public LanguageModel {
 public:
  ModernBert(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""}, config_{c}, model_{this, "model", c, kind} {
    head_ = std::make_unique<PredictionHead>(this, "head", c);
    if (c.task == Task::mlm) {
      output_ = std::make_unique<Linear>(this, "decoder", c.hidden_size, c.vocab_size);
      if (c.tie_word_embeddings) {
        output_->weight = model_.embeddings.tok_embeddings.weight;
        output_->own_parameters[0].tensor = output_->weight;
      }
      return;
    }
    drop_ = std::make_unique<Dropout>(this, "drop", c.classifier_dropout);
    output_ = std::make_unique<Linear>(this, "classifier", c.hidden_size, c.labels);
  }
  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    const torch::Shape tokens{shape.batch, shape.seq};
    const bool rows = config_.task == Task::classification;
    return {{"input_ids", tokens, Dtype::int64},
            {"attention_mask", tokens, Dtype::int64},
            {"labels", rows ? torch::Shape{shape.batch} : tokens, Dtype::int64}};
  }
  ModelOutput call(const Batch& batch) override {
    Locals locals;
    Tensor& hidden_states = locals.add(model_(batch.at("input_ids"), batch.at("attention_mask")));
    Tensor& pooled = locals.add();
    Tensor& logits = locals.add();
    const Tensor labels = batch.at("labels");
    if (config_.task == Task::mlm) {
      logits = (*output_)((*head_)(hidden_states));
      return {masked_lm_loss(logits, labels), {}, logits, {}};
    }
    if (config_.task == Task::classification) {
      hidden_states = hidden_states.select(1, 0);
    }
    pooled = (*head_)(hidden_states);
    pooled = (*drop_)(pooled);
    logits = (*output_)(pooled);
    Tensor loss = torch::cross_entropy(logits.view({-1, config_.labels}), labels.view({-1}));
    return {loss, {}, logits, {}};
  }
  void enable_checkpointing(Checkpoint kind) override { model_.checkpointing = kind; }
  [[nodiscard]] Module* input_embeddings() override { return &model_.embeddings.tok_embeddings; }

 private:
  /// ForMaskedLMLoss: in fp32.
  [[nodiscard]] Tensor masked_lm_loss(const Tensor& argument, const Tensor& labels) const {
    Locals locals;
    Tensor& logits = locals.add(argument);
    logits = logits.to(Dtype::float32);
    logits = logits.view({-1, config_.vocab_size});
    return torch::cross_entropy(logits, labels.view({-1}));
  }
  ModelConfig config_;
  ModernModel model_;
  std::unique_ptr<PredictionHead> head_{};
  std::unique_ptr<Dropout> drop_{};
  std::unique_ptr<Linear> output_{};
};

void read(ConfigFields& fields, ModelConfig& config) {
  using F = ConfigFields;
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
  config.max_positions = fields.size({"max_position_embeddings"}, 8192, F::kMaxPositions);
  config.activation = fields.activation("hidden_activation", "gelu");
  config.attention_dropout = fields.probability({"attention_dropout"}, 0.0);
  config.embedding_dropout = fields.probability({"embedding_dropout"}, 0.0);
  config.hidden_dropout = fields.probability({"mlp_dropout"}, 0.0);
  config.classifier_dropout = fields.probability({"classifier_dropout"}, 0.0);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = fields.boolean({"attention_bias"}, false);
  config.mlp_bias = fields.boolean({"mlp_bias"}, false);
  config.decoder.norm_bias = fields.boolean({"norm_bias"}, false);
  config.decoder.head_bias = fields.boolean({"classifier_bias"}, false);
  config.sliding_window = fields.size({"local_attention"}, 128, F::kMaxPositions, 2) / 2;
  const std::int64_t every = fields.size({"global_attn_every_n_layers"}, 3, F::kMaxLayers);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    config.decoder.windowed.push_back(i % every != 0);
  }
  fields.layer_types(config.decoder.windowed);
  fields.only("decoder_bias", true);
  fields.only("sparse_prediction", false);
  if (fields.text({"classifier_pooling"}, "cls") != "cls") {
    fields.fail("field 'classifier_pooling': only cls is supported");
  }
  if (fields.text({"classifier_activation"}, "gelu") != "gelu") {
    fields.fail("field 'classifier_activation': only gelu is supported");
  }
  fields.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  config.head_dim = std::max<std::int64_t>(1, config.hidden_size / config.heads);
  if (config.head_dim % 2 != 0) {
    fields.fail("rotary positions need an even head size");
  }
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<ModernBert>(config, attention);
}

constexpr std::array kHeads{
    Head{"ModernBertForMaskedLM", Task::mlm},
    Head{"ModernBertForSequenceClassification", Task::classification},
    Head{"ModernBertForTokenClassification", Task::token_classification},
};

}  // namespace

const Family kModernBert{
    .name = "modernbert",
    .heads = kHeads,
    .read = read,
    .make = make,
    .positions = Positions::advised,
};

}  // namespace peakcast::models
