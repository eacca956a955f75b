#include <array>
#include <utility>

#include "workloads/config_fields.hpp"
#include "workloads/models/activation.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/families.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/torch/checkpoint.hpp"

namespace peakcast::models {
namespace {

using torch::Dropout;
using torch::Dtype;
using torch::Embedding;
using torch::FunctionModule;
using torch::LayerNorm;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;

struct BertEmbeddings : ModuleOf<BertEmbeddings> {
  BertEmbeddings(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        word_embeddings{this, "word_embeddings", c.vocab_size, c.hidden_size},
        position_embeddings{this, "position_embeddings", c.max_positions, c.hidden_size},
        token_type_embeddings{this, "token_type_embeddings", c.type_vocab_size, c.hidden_size},
        layer_norm{this, "LayerNorm", c.hidden_size},
        dropout{this, "dropout", c.hidden_dropout} {
    static_cast<void>(add_buffer("position_ids", {1, c.max_positions}, Dtype::int64));
    static_cast<void>(add_buffer("token_type_ids", {1, c.max_positions}, Dtype::int64));
  }

  Tensor forward(const Tensor& input_ids, const Tensor& token_type_ids) {
    Locals locals;
    Tensor& positions = locals.add();
    Tensor& inputs_embeds = locals.add();
    Tensor& token_types = locals.add();
    Tensor& embeddings = locals.add();
    Tensor& position_rows = locals.add();
    positions = own_buffers[0].tensor.slice(1, 0, input_ids.size(1));
    inputs_embeds = word_embeddings(input_ids);
    token_types = token_type_embeddings(token_type_ids);
    embeddings = inputs_embeds + token_types;
    position_rows = position_embeddings(positions);
    embeddings = embeddings + position_rows;
    embeddings = layer_norm(embeddings);
    embeddings = dropout(embeddings);
    return embeddings;
  }
  Embedding word_embeddings;
  Embedding position_embeddings;
  Embedding token_type_embeddings;
  LayerNorm layer_norm;
  Dropout dropout;
};

struct BertSelfAttention : ModuleOf<BertSelfAttention> {
  BertSelfAttention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        query{this, "query", c.hidden_size, c.hidden_size},
        key{this, "key", c.hidden_size, c.hidden_size},
        value{this, "value", c.hidden_size, c.hidden_size},
        head_dim{c.hidden_size / c.heads},
        dropout_p{c.attention_dropout},
        implementation{kind} {}

  AttentionResult forward(const Tensor& hidden_states) {
    const torch::Shape shape{hidden_states.size(0), hidden_states.size(1), -1, head_dim};
    Locals locals;
    Tensor& q = locals.add();
    Tensor& k = locals.add();
    Tensor& v = locals.add();
    Tensor& out = locals.add();
    Tensor& weights = locals.add();
    q = query(hidden_states).view(shape).transpose(1, 2);
    k = key(hidden_states).view(shape).transpose(1, 2);
    v = value(hidden_states).view(shape).transpose(1, 2);
    {
      AttentionResult result =
          attention_with_weights(q, k, v, {implementation, dropout_p, false, training, {}});
      out = std::move(result.output);
      weights = std::move(result.weights);
    }
    out = out.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
    return {out, weights};
  }
  Linear query;
  Linear key;
  Linear value;
  std::int64_t head_dim;
  double dropout_p;
  Attention implementation;
};

/// BertSelfOutput and BertOutput: the same module on another width.
struct BertOutput : ModuleOf<BertOutput> {
  BertOutput(Module* parent, std::string_view name, std::int64_t in, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "dense", in, c.hidden_size},
        layer_norm{this, "LayerNorm", c.hidden_size},
        dropout{this, "dropout", c.hidden_dropout} {}

  Tensor forward(const Tensor& input, const Tensor& residual) {
    Tensor hidden_states = dense(input);
    hidden_states = dropout(hidden_states);
    hidden_states = layer_norm(hidden_states + residual);
    return hidden_states;
  }
  Linear dense;
  LayerNorm layer_norm;
  Dropout dropout;
};

struct BertAttention : ModuleOf<BertAttention> {
  BertAttention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        self{this, "self", c, kind},
        output{this, "output", c.hidden_size, c} {}

  AttentionResult forward(const Tensor& hidden_states) {
    AttentionResult attention = self(hidden_states);
    attention.output = output(attention.output, hidden_states);
    return attention;
  }
  BertSelfAttention self;
  BertOutput output;
};

struct BertIntermediate : ModuleOf<BertIntermediate> {
  BertIntermediate(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "dense", c.hidden_size, c.intermediate_size},
        intermediate_act_fn{this, "intermediate_act_fn",
                            [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {}

  Tensor forward(const Tensor& input) {
    Tensor hidden_states = dense(input);
    hidden_states = intermediate_act_fn(hidden_states);
    return hidden_states;
  }
  Linear dense;
  FunctionModule intermediate_act_fn;
};

struct BertLayer : ModuleOf<BertLayer> {
  BertLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        attention{this, "attention", c, kind},
        intermediate{this, "intermediate", c},
        output{this, "output", c.intermediate_size, c} {}
  [[nodiscard]] std::string_view type_name() const override { return "BertLayer"; }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }

  Tensor forward(const Tensor& hidden_states) {
    Locals locals;
    Tensor& weights = locals.add();  // Python's "_"
    Tensor& attention_output = locals.add();
    Tensor& layer_output = locals.add();
    {
      AttentionResult result = attention(hidden_states);
      attention_output = std::move(result.output);
      weights = std::move(result.weights);
    }
    {  // feed_forward_chunk
      Locals inner;
      Tensor& intermediate_output = inner.add(intermediate(attention_output));
      Tensor& result = inner.add(output(intermediate_output, attention_output));
      layer_output = result;
    }
    return layer_output;
  }
  BertAttention attention;
  BertIntermediate intermediate;
  BertOutput output;
};

struct BertEncoder : ModuleOf<BertEncoder> {
  BertEncoder(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name}, layer{this, "layer"} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layer.append(c, kind);
    }
  }
  Tensor forward(const Tensor& input) {
    Tensor hidden_states = input;
    for (const auto& block : layer) {
      if (checkpointing == Checkpoint::none) {
        hidden_states = (*block)(hidden_states);
      } else {
        hidden_states = torch::checkpoint(
            [&module = *block](const torch::TensorList& arguments) { return module(arguments[0]); },
            {hidden_states}, checkpointing == Checkpoint::full_reentrant);
      }
    }
    return hidden_states;
  }
  ModuleList<BertLayer> layer;
  Checkpoint checkpointing{};
};

struct BertPooler : ModuleOf<BertPooler> {
  BertPooler(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "dense", c.hidden_size, c.hidden_size},
        activation{this, "activation", [](const Tensor& x) { return torch::tanh(x); }} {}
  Tensor forward(const Tensor& hidden_states) {
    Locals locals;
    Tensor& first_token = locals.add(hidden_states.select(1, 0));
    Tensor& pooled = locals.add(dense(first_token));
    pooled = activation(pooled);
    return pooled;
  }
  Linear dense;
  FunctionModule activation;
};

/// What BertModel returns: the pooled output is undefined without a pooler.
struct BertModelOutput {
  Tensor last_hidden_state{};
  Tensor pooled{};
  torch::TensorList take_tensors() { return {std::move(last_hidden_state), std::move(pooled)}; }
  void put_tensors(torch::TensorList tensors) {
    last_hidden_state = std::move(tensors[0]);
    pooled = std::move(tensors[1]);
  }
};

struct BertModel : ModuleOf<BertModel> {
  BertModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind,
            bool with_pooler)
      : ModuleOf{parent, name},
        embeddings{this, "embeddings", c},
        encoder{this, "encoder", c, kind} {
    if (with_pooler) {
      pooler = std::make_unique<BertPooler>(this, "pooler", c);
    }
  }
  BertModelOutput forward(const Tensor& input_ids, const Tensor& attention_mask,
                          const Tensor& token_type_ids) {
    Locals locals;
    Tensor& embedding_output = locals.add(embeddings(input_ids, token_type_ids));
    check_bidirectional_mask(attention_mask);
    Tensor& sequence_output = locals.add(encoder(embedding_output));
    Tensor& pooled_output = locals.add();
    if (pooler) {
      pooled_output = (*pooler)(sequence_output);
    }
    return {sequence_output, pooled_output};
  }
  BertEmbeddings embeddings;
  BertEncoder encoder;
  std::unique_ptr<BertPooler> pooler{};
};

struct BertTransform : ModuleOf<BertTransform> {
  BertTransform(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dense{this, "dense", c.hidden_size, c.hidden_size},
        transform_act_fn{this, "transform_act_fn",
                         [kind = c.activation](const Tensor& x) { return activate(kind, x); }},
        layer_norm{this, "LayerNorm", c.hidden_size} {}
  Tensor forward(const Tensor& input) {
    Tensor hidden_states = dense(input);
    hidden_states = transform_act_fn(hidden_states);
    hidden_states = layer_norm(hidden_states);
    return hidden_states;
  }
  Linear dense;
  FunctionModule transform_act_fn;
  LayerNorm layer_norm;
};

/// BertLMPredictionHead. Tied, the decoder's weight is the word embedding and its bias the head's
/// own.
struct BertPredictions : ModuleOf<BertPredictions> {
  BertPredictions(Module* parent, std::string_view name, const ModelConfig& c, const Tensor& words)
      : ModuleOf{parent, name},
        transform{this, "transform", c},
        decoder{this, "decoder", c.hidden_size, c.vocab_size} {
    if (c.tie_word_embeddings) {
      decoder.weight = words;
      decoder.own_parameters[0].tensor = words;
      own_parameters.push_back({"bias", decoder.bias});
    } else {
      static_cast<void>(add_parameter("bias", {c.vocab_size}));  // nobody reads it
    }
  }
  Tensor forward(const Tensor& input) {
    Tensor hidden_states = transform(input);
    hidden_states = decoder(hidden_states);
    return hidden_states;
  }
  BertTransform transform;
  Linear decoder;
};

struct BertHead : ModuleOf<BertHead> {
  BertHead(Module* parent, std::string_view name, const ModelConfig& c, const Tensor& words,
           bool next_sentence)
      : ModuleOf{parent, name}, predictions{this, "predictions", c, words} {
    if (next_sentence) {
      seq_relationship = std::make_unique<Linear>(this, "seq_relationship", c.hidden_size, 2);
    }
  }
  /// The prediction scores; next-sentence scores come from `seq_relationship`.
  Tensor forward(const Tensor& sequence_output) { return predictions(sequence_output); }
  BertPredictions predictions;
  std::unique_ptr<Linear> seq_relationship{};
};

class Bert : public LanguageModel {
 public:
  Bert(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""}, config_{c}, bert_{this, "bert", c, kind, c.task != Task::mlm} {
    if (c.task == Task::classification) {
      dropout_ = std::make_unique<Dropout>(this, "dropout", c.classifier_dropout);
      classifier_ = std::make_unique<Linear>(this, "classifier", c.hidden_size, c.labels);
    } else {
      cls_ = std::make_unique<BertHead>(this, "cls", c, bert_.embeddings.word_embeddings.weight,
                                        c.task == Task::pretraining);
    }
  }

  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    const torch::Shape tokens{shape.batch, shape.seq};
    std::vector<InputSpec> specs{{"input_ids", tokens, Dtype::int64},
                                 {"attention_mask", tokens, Dtype::int64},
                                 {"token_type_ids", tokens, Dtype::int64},
                                 {"labels", tokens, Dtype::int64}};
    if (config_.task == Task::classification) {
      specs[3].sizes = {shape.batch};
    } else if (config_.task == Task::pretraining) {
      specs.push_back({"next_sentence_label", {shape.batch}, Dtype::int64});
    }
    return specs;
  }

  ModelOutput call(const Batch& batch) override {
    Locals locals;
    Tensor& sequence_output = locals.add();
    Tensor& pooled_output = locals.add();
    {
      BertModelOutput outputs =
          bert_(batch.at("input_ids"), batch.at("attention_mask"), batch.at("token_type_ids"));
      sequence_output = outputs.last_hidden_state;
      pooled_output = outputs.pooled;
    }
    const Tensor labels = batch.at("labels");
    if (config_.task == Task::classification) {
      Tensor& logits = locals.add();
      pooled_output = (*dropout_)(pooled_output);
      logits = (*classifier_)(pooled_output);
      Tensor loss = torch::cross_entropy(logits.view({-1, config_.labels}), labels.view({-1}));
      return {loss, {}, logits, {}};
    }
    Tensor& scores = locals.add((*cls_)(sequence_output));
    if (config_.task == Task::mlm) {
      Tensor loss = torch::cross_entropy(scores.view({-1, config_.vocab_size}), labels.view({-1}));
      return {loss, {}, scores, {}};
    }
    Tensor& relationship = locals.add((*cls_->seq_relationship)(pooled_output));
    Tensor& masked_loss =
        locals.add(torch::cross_entropy(scores.view({-1, config_.vocab_size}), labels.view({-1})));
    Tensor& next_loss = locals.add(torch::cross_entropy(
        relationship.view({-1, 2}), batch.at("next_sentence_label").view({-1})));
    Tensor loss = masked_loss + next_loss;
    return {loss, {}, scores, {relationship}};
  }

  void enable_checkpointing(Checkpoint kind) override { bert_.encoder.checkpointing = kind; }

 private:
  ModelConfig config_;
  BertModel bert_;
  std::unique_ptr<BertHead> cls_{};
  std::unique_ptr<Dropout> dropout_{};
  std::unique_ptr<Linear> classifier_{};
};

void read(ConfigFields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, ConfigFields::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, ConfigFields::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, ConfigFields::kMaxWidth);
  config.intermediate_size =
      fields.size({"intermediate_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.max_positions = fields.size({"max_position_embeddings"}, 512, ConfigFields::kMaxPositions);
  config.type_vocab_size = fields.size({"type_vocab_size"}, 2, ConfigFields::kMaxVocabulary);
  config.activation = fields.activation("hidden_act", "gelu");
  config.hidden_dropout = fields.probability({"hidden_dropout_prob"}, 0.1);
  config.embedding_dropout = config.hidden_dropout;
  config.attention_dropout = fields.probability({"attention_probs_dropout_prob"}, 0.1);
  config.classifier_dropout = fields.probability({"classifier_dropout"}, config.hidden_dropout);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  fields.only("is_decoder", false);
  fields.only("add_cross_attention", false);
  fields.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<Bert>(config, attention);
}

constexpr std::array<Head, 3> kHeads{{
    {"BertForMaskedLM", Task::mlm},
    {"BertForPreTraining", Task::pretraining},
    {"BertForSequenceClassification", Task::classification},
}};

}  // namespace

/// Source: transformers 5.17, models/bert/modeling_bert.py.
const Family kBert{
    .name = "bert",
    .heads = kHeads,
    .read = read,
    .make = make,
    .positions = Positions::table,
    .positions_key = "max_position_embeddings",
};

}  // namespace peakcast::models
