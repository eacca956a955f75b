#include <array>
#include <span>
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

/// What tells the encoders of BERT's build apart. Source: transformers 5.17,
/// models/{bert,roberta,electra,distilbert}/modeling_*.py.
struct EncoderTraits {
  std::string_view prefix{};    ///< of the base model among its heads' modules
  bool positions_by_padding{};  ///< counted from the ids: those of padding stay
  bool types{true};             ///< has token types (and takes them as an input, unless next)
  bool types_given{true};
  bool base_activation_is_gelu{};  ///< a classification head's activation; else tanh
  bool pooler{};                   ///< a pooler before the classifier
  bool distilled{};                ///< DistilBERT's layers and heads
};
constexpr EncoderTraits kBertTraits{.prefix = "bert", .pooler = true};
constexpr EncoderTraits kRobertaTraits{
    .prefix = "roberta", .positions_by_padding = true, .types_given = false};
constexpr EncoderTraits kElectraTraits{.prefix = "electra", .base_activation_is_gelu = true};
constexpr EncoderTraits kDistilBertTraits{
    .prefix = "distilbert", .types = false, .types_given = false, .distilled = true};

const EncoderTraits& traits_of(const ModelConfig& c) {
  return c.family == &kRoberta      ? kRobertaTraits
         : c.family == &kElectra    ? kElectraTraits
         : c.family == &kDistilBert ? kDistilBertTraits
                                    : kBertTraits;
}

struct EncoderEmbeddings : ModuleOf<EncoderEmbeddings> {
  EncoderEmbeddings(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        traits{traits_of(c)},
        word_embeddings{this, "word_embeddings", c.vocab_size, c.embedding_size} {
    const auto positions = [&] {
      position_embeddings = std::make_unique<Embedding>(this, "position_embeddings",
                                                        c.max_positions, c.embedding_size);
    };
    if (!traits.positions_by_padding) {
      positions();
    }
    if (traits.types) {
      token_type_embeddings = std::make_unique<Embedding>(this, "token_type_embeddings",
                                                          c.type_vocab_size, c.embedding_size);
    }
    layer_norm = std::make_unique<LayerNorm>(this, "LayerNorm", c.embedding_size);
    dropout = std::make_unique<Dropout>(this, "dropout", c.hidden_dropout);
    if (traits.positions_by_padding) {
      positions();
    }
    static_cast<void>(add_buffer("position_ids", {1, c.max_positions}, Dtype::int64));
    if (traits.types) {
      static_cast<void>(add_buffer("token_type_ids", {1, c.max_positions}, Dtype::int64));
    }
  }

  Tensor forward(const Tensor& input_ids, const Tensor& given_types) {
    Locals locals;
    Tensor& token_type_ids = locals.add(given_types);
    Tensor& positions = locals.add();
    Tensor& inputs_embeds = locals.add();
    Tensor& buffered_types = locals.add();
    Tensor& token_types = locals.add();
    Tensor& embeddings = locals.add();
    Tensor& position_rows = locals.add();
    const std::int64_t length = input_ids.size(1);
    if (!traits.types) {
      inputs_embeds = word_embeddings(input_ids);
      positions = own_buffers[0].tensor.slice(1, 0, length);
      position_rows = (*position_embeddings)(positions);
      embeddings = inputs_embeds + position_rows;
    } else {
      positions = traits.positions_by_padding ? positions_of(input_ids)
                                              : own_buffers[0].tensor.slice(1, 0, length);
      if (!token_type_ids.defined()) {
        buffered_types = own_buffers[1].tensor.expand({positions.size(0), -1});
        buffered_types = torch::gather(buffered_types, positions);
        token_type_ids = buffered_types.expand({input_ids.size(0), length});
      }
      inputs_embeds = word_embeddings(input_ids);
      token_types = (*token_type_embeddings)(token_type_ids);
      embeddings = inputs_embeds + token_types;
      position_rows = (*position_embeddings)(positions);
      embeddings = embeddings + position_rows;
    }
    embeddings = (*layer_norm)(embeddings);
    embeddings = (*dropout)(embeddings);
    return embeddings;
  }
  const EncoderTraits& traits;
  Embedding word_embeddings;
  std::unique_ptr<Embedding> position_embeddings{};
  std::unique_ptr<Embedding> token_type_embeddings{};
  std::unique_ptr<LayerNorm> layer_norm{};
  std::unique_ptr<Dropout> dropout{};

 private:
  /// create_position_ids_from_input_ids.
  static Tensor positions_of(const Tensor& input_ids) {
    Locals locals;
    Tensor& mask = locals.add();
    Tensor& indices = locals.add();
    {
      const Tensor differs = torch::pointwise("ne", {&input_ids}, Dtype::boolean);
      mask = differs.to(Dtype::int32);
    }
    {
      Tensor counted = torch::cumsum_rows(mask);
      Tensor narrow = counted.to(Dtype::int32);
      counted.reset();
      Tensor shifted = std::move(narrow) + torch::integer(0);
      indices = std::move(shifted) * mask;
    }
    return indices.to(Dtype::int64) + torch::integer(1);
  }
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

// -- DistilBERT's layers --------------------------------------------------------------------------

struct DistilAttention : ModuleOf<DistilAttention> {
  DistilAttention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        q_lin{this, "q_lin", c.hidden_size, c.hidden_size},
        k_lin{this, "k_lin", c.hidden_size, c.hidden_size},
        v_lin{this, "v_lin", c.hidden_size, c.hidden_size},
        out_lin{this, "out_lin", c.hidden_size, c.hidden_size},
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
    q = q_lin(hidden_states).view(shape).transpose(1, 2);
    k = k_lin(hidden_states).view(shape).transpose(1, 2);
    v = v_lin(hidden_states).view(shape).transpose(1, 2);
    {
      AttentionResult result =
          attention_with_weights(q, k, v, {implementation, dropout_p, false, training, {}});
      out = std::move(result.output);
      weights = std::move(result.weights);
    }
    out = out.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
    out = out_lin(out);
    return {out, weights};
  }
  Linear q_lin;
  Linear k_lin;
  Linear v_lin;
  Linear out_lin;
  std::int64_t head_dim;
  double dropout_p;
  Attention implementation;
};

struct DistilFeedForward : ModuleOf<DistilFeedForward> {
  DistilFeedForward(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        dropout{this, "dropout", c.hidden_dropout},
        lin1{this, "lin1", c.hidden_size, c.intermediate_size},
        lin2{this, "lin2", c.intermediate_size, c.hidden_size},
        activation{this, "activation",
                   [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {}
  Tensor forward(const Tensor& input) {
    Tensor x = lin1(input);
    x = activation(x);
    x = lin2(x);
    x = dropout(x);
    return x;
  }
  Dropout dropout;
  Linear lin1;
  Linear lin2;
  FunctionModule activation;
};

struct DistilLayer : ModuleOf<DistilLayer> {
  DistilLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        attention{this, "attention", c, kind},
        sa_layer_norm{this, "sa_layer_norm", c.hidden_size},
        ffn{this, "ffn", c},
        output_layer_norm{this, "output_layer_norm", c.hidden_size} {}
  [[nodiscard]] bool is_transformer_layer() const override { return true; }
  Tensor forward(const Tensor& hidden_states) {
    Locals locals;
    Tensor& attention_output = locals.add();
    Tensor& weights = locals.add();  // Python's "_"
    Tensor& ffn_output = locals.add();
    {
      AttentionResult result = attention(hidden_states);
      attention_output = std::move(result.output);
      weights = std::move(result.weights);
    }
    attention_output = sa_layer_norm(attention_output + hidden_states);
    ffn_output = ffn(attention_output);
    ffn_output = output_layer_norm(ffn_output + attention_output);
    return ffn_output;
  }
  DistilAttention attention;
  LayerNorm sa_layer_norm;
  DistilFeedForward ffn;
  LayerNorm output_layer_norm;
};

// -- the base model -------------------------------------------------------------------------------

template <class Layer>
struct EncoderStack : ModuleOf<EncoderStack<Layer>> {
  EncoderStack(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf<EncoderStack<Layer>>{parent, name}, layer{this, "layer"} {
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
  ModuleList<Layer> layer;
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

struct EncoderModel : ModuleOf<EncoderModel> {
  EncoderModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind,
               bool with_pooler)
      : ModuleOf{parent, name}, embeddings{this, "embeddings", c} {
    if (c.embedding_size != c.hidden_size) {
      project =
          std::make_unique<Linear>(this, "embeddings_project", c.embedding_size, c.hidden_size);
    }
    if (traits_of(c).distilled) {
      transformer = std::make_unique<EncoderStack<DistilLayer>>(this, "transformer", c, kind);
    } else {
      encoder = std::make_unique<EncoderStack<BertLayer>>(this, "encoder", c, kind);
    }
    if (with_pooler) {
      pooler = std::make_unique<BertPooler>(this, "pooler", c);
    }
  }
  BertModelOutput forward(const Tensor& input_ids, const Tensor& attention_mask,
                          const Tensor& token_type_ids) {
    Locals locals;
    Tensor& embedding_output = locals.add(embeddings(input_ids, token_type_ids));
    if (project) {
      embedding_output = (*project)(embedding_output);
    }
    check_bidirectional_mask(attention_mask);
    Tensor& sequence_output =
        locals.add(encoder ? (*encoder)(embedding_output) : (*transformer)(embedding_output));
    Tensor& pooled_output = locals.add();
    if (pooler) {
      pooled_output = (*pooler)(sequence_output);
    }
    return {sequence_output, pooled_output};
  }
  void enable_checkpointing(Checkpoint kind) {
    (encoder ? encoder->checkpointing : transformer->checkpointing) = kind;
  }
  EncoderEmbeddings embeddings;
  std::unique_ptr<Linear> project{};
  std::unique_ptr<EncoderStack<BertLayer>> encoder{};        ///< either this
  std::unique_ptr<EncoderStack<DistilLayer>> transformer{};  ///< or this
  std::unique_ptr<BertPooler> pooler{};
};

// -- heads ----------------------------------------------------------------------------------------

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

/// RobertaLMHead: BERT's transform and decoder in one, with the bias tied.
struct RobertaHead : ModuleOf<RobertaHead> {
  RobertaHead(Module* parent, std::string_view name, const ModelConfig& c, const Tensor& words)
      : ModuleOf{parent, name},
        dense{this, "dense", c.hidden_size, c.hidden_size},
        layer_norm{this, "layer_norm", c.hidden_size},
        decoder{this, "decoder", c.hidden_size, c.vocab_size} {
    if (c.tie_word_embeddings) {
      decoder.weight = words;
      decoder.own_parameters[0].tensor = words;
      own_parameters.push_back({"bias", decoder.bias});
    } else {
      static_cast<void>(add_parameter("bias", {c.vocab_size}));
    }
  }
  Tensor forward(const Tensor& features) {
    Tensor x = dense(features);
    x = torch::gelu(x);
    x = layer_norm(x);
    x = decoder(x);
    return x;
  }
  Linear dense;
  LayerNorm layer_norm;
  Linear decoder;
};

/// RobertaClassificationHead and ElectraClassificationHead.
struct ClassificationHead : ModuleOf<ClassificationHead> {
  ClassificationHead(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        gelu{traits_of(c).base_activation_is_gelu},
        dense{this, "dense", c.hidden_size, c.hidden_size},
        dropout{this, "dropout", c.classifier_dropout},
        out_proj{this, "out_proj", c.hidden_size, c.labels} {}
  Tensor forward(const Tensor& features) {
    Tensor x = features.select(1, 0);
    x = dropout(x);
    x = dense(x);
    x = gelu ? torch::gelu(x) : torch::tanh(x);
    x = dropout(x);
    x = out_proj(x);
    return x;
  }
  bool gelu;
  Linear dense;
  Dropout dropout;
  Linear out_proj;
};

class Encoder final : public LanguageModel {
 public:
  Encoder(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""},
        config_{c},
        traits_{traits_of(c)},
        base_{this, traits_.prefix, c, kind,
              traits_.pooler && (c.task == Task::classification || c.task == Task::pretraining)} {
    const Tensor words = base_.embeddings.word_embeddings.weight;
    const auto linear = [&](std::string_view name, std::int64_t out) {
      return std::make_unique<Linear>(this, name, c.hidden_size, out);
    };
    switch (c.task) {
      case Task::mlm:
      case Task::pretraining:
        make_language_head(words);
        break;
      case Task::classification:
        if (traits_.distilled) {
          transform_ = linear("pre_classifier", c.hidden_size);
          classifier_ = linear("classifier", c.labels);
          dropout_ = std::make_unique<Dropout>(this, "dropout", c.classifier_dropout);
        } else if (traits_.pooler) {
          dropout_ = std::make_unique<Dropout>(this, "dropout", c.classifier_dropout);
          classifier_ = linear("classifier", c.labels);
        } else {
          head_ = std::make_unique<ClassificationHead>(this, "classifier", c);
        }
        break;
      case Task::question_answering:
        classifier_ = linear("qa_outputs", 2);
        if (traits_.distilled) {
          dropout_ = std::make_unique<Dropout>(this, "dropout", 0.1);  // qa_dropout
        }
        break;
      case Task::token_classification:
      case Task::causal_lm:
      case Task::image_classification:
      case Task::seq2seq:
        dropout_ = std::make_unique<Dropout>(
            this, "dropout", traits_.distilled ? c.hidden_dropout : c.classifier_dropout);
        classifier_ = linear("classifier", c.labels);
        break;
    }
  }

  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    const torch::Shape tokens{shape.batch, shape.seq};
    const torch::Shape rows{shape.batch};
    std::vector<InputSpec> specs{{"input_ids", tokens, Dtype::int64},
                                 {"attention_mask", tokens, Dtype::int64}};
    if (traits_.types_given) {
      specs.push_back({"token_type_ids", tokens, Dtype::int64});
    }
    if (config_.task == Task::question_answering) {
      specs.push_back({"start_positions", rows, Dtype::int64});
      specs.push_back({"end_positions", rows, Dtype::int64});
      return specs;
    }
    specs.push_back({"labels", config_.task == Task::classification ? rows : tokens, Dtype::int64});
    if (config_.task == Task::pretraining) {
      specs.push_back({"next_sentence_label", rows, Dtype::int64});
    }
    return specs;
  }

  ModelOutput call(const Batch& batch) override {
    Locals locals;
    Tensor& output_states = locals.add();  // the base model's output keeps both
    Tensor& output_pooled = locals.add();
    Tensor& sequence_output = locals.add();
    Tensor& pooled_output = locals.add();
    {
      BertModelOutput outputs =
          base_(batch.at("input_ids"), batch.at("attention_mask"), batch.at("token_type_ids"));
      output_states = sequence_output = outputs.last_hidden_state;
      output_pooled = pooled_output = outputs.pooled;
    }
    switch (config_.task) {
      case Task::mlm:
      case Task::pretraining:
        return predict_words(batch, sequence_output, pooled_output);
      case Task::classification:
        return classify(batch, sequence_output, pooled_output);
      case Task::question_answering:
        return find_answer(batch, sequence_output);
      case Task::token_classification:
      case Task::causal_lm:
      case Task::image_classification:
      case Task::seq2seq:
        break;
    }
    sequence_output = (*dropout_)(sequence_output);
    Tensor& logits = locals.add((*classifier_)(sequence_output));
    return {loss_of(logits, config_.labels, batch.at("labels")), {}, logits, {}};
  }

  void enable_checkpointing(Checkpoint kind) override { base_.enable_checkpointing(kind); }
  [[nodiscard]] Module* input_embeddings() override { return &base_.embeddings.word_embeddings; }

 private:
  void make_language_head(const Tensor& words) {
    if (traits_.distilled) {
      transform_ = std::make_unique<Linear>(this, "vocab_transform", config_.hidden_size,
                                            config_.hidden_size);
      norm_ = std::make_unique<LayerNorm>(this, "vocab_layer_norm", config_.hidden_size);
      projector_ = std::make_unique<Linear>(this, "vocab_projector", config_.hidden_size,
                                            config_.vocab_size);
      if (config_.tie_word_embeddings) {
        projector_->weight = words;
        projector_->own_parameters[0].tensor = words;
      }
    } else if (config_.family == &kRoberta) {
      lm_head_ = std::make_unique<RobertaHead>(this, "lm_head", config_, words);
    } else {
      cls_ = std::make_unique<BertHead>(this, "cls", config_, words,
                                        config_.task == Task::pretraining);
    }
  }
  [[nodiscard]] static Tensor loss_of(const Tensor& scores, std::int64_t classes,
                                      const Tensor& labels) {
    return torch::cross_entropy(scores.view({-1, classes}), labels.view({-1}));
  }
  [[nodiscard]] Tensor scores_of(const Tensor& hidden_states) {
    if (cls_) {
      return (*cls_)(hidden_states);
    }
    if (lm_head_) {
      return (*lm_head_)(hidden_states);
    }
    Tensor scores = (*transform_)(hidden_states);
    scores = activate(config_.activation, scores);
    scores = (*norm_)(scores);
    return (*projector_)(scores);
  }
  ModelOutput predict_words(const Batch& batch, const Tensor& hidden_states,
                            const Tensor& pooled_output) {
    Locals locals;
    Tensor& scores = locals.add(scores_of(hidden_states));
    if (config_.task == Task::mlm) {
      Tensor loss = loss_of(scores, config_.vocab_size, batch.at("labels"));
      return {loss, {}, scores, {}};
    }
    Tensor& relationship = locals.add((*cls_->seq_relationship)(pooled_output));
    Tensor& masked_loss = locals.add(loss_of(scores, config_.vocab_size, batch.at("labels")));
    Tensor& next_loss = locals.add(loss_of(relationship, 2, batch.at("next_sentence_label")));
    Tensor loss = masked_loss + next_loss;
    return {loss, {}, scores, {relationship}};
  }
  ModelOutput classify(const Batch& batch, const Tensor& hidden_states, Tensor& pooled_output) {
    Locals locals;
    Tensor& logits = locals.add();
    if (head_) {
      logits = (*head_)(hidden_states);
    } else {
      if (traits_.distilled) {
        pooled_output = hidden_states.select(1, 0);
        pooled_output = (*transform_)(pooled_output);
        pooled_output = torch::relu(pooled_output);
      }
      pooled_output = (*dropout_)(pooled_output);
      logits = (*classifier_)(pooled_output);
    }
    return {loss_of(logits, config_.labels, batch.at("labels")), {}, logits, {}};
  }
  /// Where the answer starts and ends: two columns of one projection.
  ModelOutput find_answer(const Batch& batch, const Tensor& hidden_states) {
    Locals locals;
    Tensor& logits = locals.add();
    Tensor& start_logits = locals.add();
    Tensor& end_logits = locals.add();
    Tensor& starts = locals.add();
    Tensor& ends = locals.add();
    logits = (*classifier_)(dropout_ ? (*dropout_)(hidden_states) : hidden_states);
    {
      torch::TensorList columns = torch::split(logits, {1, 1}, -1);
      start_logits = std::move(columns[0]);
      end_logits = std::move(columns[1]);
    }
    start_logits = start_logits.squeeze(-1).contiguous();
    end_logits = end_logits.squeeze(-1).contiguous();
    const Tensor given_starts = batch.at("start_positions");
    const Tensor given_ends = batch.at("end_positions");
    starts = torch::pointwise("clamp", {&given_starts}, Dtype::int64);
    ends = torch::pointwise("clamp", {&given_ends}, Dtype::int64);
    Tensor& start_loss = locals.add(torch::cross_entropy(start_logits, starts));
    Tensor& end_loss = locals.add(torch::cross_entropy(end_logits, ends));
    Tensor loss = (start_loss + end_loss) / 2.0;
    return {loss, {}, start_logits, {end_logits}};
  }
  ModelConfig config_;
  const EncoderTraits& traits_;
  EncoderModel base_;
  std::unique_ptr<BertHead> cls_{};
  std::unique_ptr<RobertaHead> lm_head_{};
  std::unique_ptr<ClassificationHead> head_{};
  std::unique_ptr<Linear> transform_{};
  std::unique_ptr<LayerNorm> norm_{};
  std::unique_ptr<Linear> projector_{};
  std::unique_ptr<Linear> classifier_{};
  std::unique_ptr<Dropout> dropout_{};
};

void read(ConfigFields& fields, ModelConfig& config) {
  using F = ConfigFields;
  const bool distilled = config.family == &kDistilBert;
  const bool roberta = config.family == &kRoberta;
  const auto size = [&](std::string_view own, std::string_view common, std::int64_t maximum) {
    return distilled ? fields.size({own, common}, std::nullopt, maximum)
                     : fields.size({common}, std::nullopt, maximum);
  };
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = size("dim", "hidden_size", F::kMaxWidth);
  config.layers = size("n_layers", "num_hidden_layers", F::kMaxLayers);
  config.heads = size("n_heads", "num_attention_heads", F::kMaxWidth);
  config.intermediate_size = size("hidden_dim", "intermediate_size", F::kMaxWidth);
  config.max_positions = fields.size({"max_position_embeddings"}, 512, F::kMaxPositions);
  config.embedding_size = config.hidden_size;
  if (config.family == &kElectra) {
    config.embedding_size = fields.size({"embedding_size"}, 128, F::kMaxWidth);
  }
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  if (distilled) {
    config.activation = fields.activation("activation", "gelu");
    config.hidden_dropout = fields.probability({"dropout"}, 0.1);
    config.attention_dropout = fields.probability({"attention_dropout"}, 0.1);
    config.classifier_dropout = fields.probability({"seq_classif_dropout"}, 0.2);
  } else {
    config.type_vocab_size = fields.size({"type_vocab_size"}, 2, F::kMaxVocabulary);
    config.activation = fields.activation("hidden_act", "gelu");
    config.hidden_dropout = fields.probability({"hidden_dropout_prob"}, 0.1);
    config.attention_dropout = fields.probability({"attention_probs_dropout_prob"}, 0.1);
    config.classifier_dropout = fields.probability({"classifier_dropout"}, config.hidden_dropout);
    fields.only("is_decoder", false);
    fields.only("add_cross_attention", false);
  }
  config.embedding_dropout = config.hidden_dropout;
  fields.divides(distilled ? "n_heads" : "num_attention_heads", config.heads,
                 distilled ? "dim" : "hidden_size", config.hidden_size);
  if (roberta && config.max_positions > 2) {
    config.max_sequence = config.max_positions - 2;  // counting starts behind the padding's
  }
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<Encoder>(config, attention);
}

constexpr std::array kBertHeads{
    Head{"BertForMaskedLM", Task::mlm},
    Head{"BertForPreTraining", Task::pretraining},
    Head{"BertForSequenceClassification", Task::classification},
    Head{"BertForTokenClassification", Task::token_classification},
    Head{"BertForQuestionAnswering", Task::question_answering},
};
constexpr std::array kRobertaHeads{
    Head{"RobertaForMaskedLM", Task::mlm},
    Head{"RobertaForSequenceClassification", Task::classification},
    Head{"RobertaForTokenClassification", Task::token_classification},
    Head{"RobertaForQuestionAnswering", Task::question_answering},
};
constexpr std::array kElectraHeads{
    Head{"ElectraForSequenceClassification", Task::classification},
    Head{"ElectraForTokenClassification", Task::token_classification},
    Head{"ElectraForQuestionAnswering", Task::question_answering},
};
constexpr std::array kDistilBertHeads{
    Head{"DistilBertForMaskedLM", Task::mlm},
    Head{"DistilBertForSequenceClassification", Task::classification},
    Head{"DistilBertForTokenClassification", Task::token_classification},
    Head{"DistilBertForQuestionAnswering", Task::question_answering},
};

constexpr Family row(std::string_view name, std::span<const Head> heads) {
  return {.name = name,
          .heads = heads,
          .read = read,
          .make = make,
          .positions = Positions::table,
          .positions_key = "max_position_embeddings"};
}

}  // namespace

const Family kBert = row("bert", kBertHeads);
const Family kDistilBert = row("distilbert", kDistilBertHeads);
const Family kElectra = row("electra", kElectraHeads);
const Family kRoberta = row("roberta", kRobertaHeads);

}  // namespace peakcast::models
