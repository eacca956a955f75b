#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "workloads/models/activation.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/families.hpp"
#include "workloads/torch/checkpoint.hpp"
#include "workloads/torch/module.hpp"

/// The base models of BERT's build, without heads. Source: transformers 5.17,
/// models/{bert,roberta,electra,distilbert}/modeling_*.py.
namespace peakcast::models::encoders {

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
inline constexpr EncoderTraits kBertTraits{.prefix = "bert", .pooler = true};
inline constexpr EncoderTraits kRobertaTraits{
    .prefix = "roberta", .positions_by_padding = true, .types_given = false};
inline constexpr EncoderTraits kElectraTraits{.prefix = "electra", .base_activation_is_gelu = true};
inline constexpr EncoderTraits kDistilBertTraits{
    .prefix = "distilbert", .types = false, .types_given = false, .distilled = true};

inline const EncoderTraits& traits_of(const ModelConfig& c) {
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

}  // namespace peakcast::models::encoders
