#include <array>
#include <span>
#include <utility>

#include "workloads/config_fields.hpp"
#include "workloads/models/encoder_layers.hpp"
#include "workloads/models/families.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/torch/checkpoint.hpp"

namespace peakcast::models {
namespace {

using namespace encoders;

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
