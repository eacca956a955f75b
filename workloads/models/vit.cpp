#include <array>
#include <utility>

#include <fmt/format.h>

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
using torch::LayerNorm;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;

/// nn.Conv2d whose stride is its kernel.
struct PatchConvolution : ModuleOf<PatchConvolution> {
  PatchConvolution(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        weight{add_parameter("weight", {c.hidden_size, c.channels, c.patch_size, c.patch_size})},
        bias{add_parameter("bias", {c.hidden_size})} {}
  Tensor forward(const Tensor& pixels) { return torch::patch_convolution(pixels, weight, bias); }
  [[nodiscard]] std::string_view type_name() const override { return "Conv2d"; }
  Tensor weight;
  Tensor bias;
};

struct ViTPatchEmbeddings : ModuleOf<ViTPatchEmbeddings> {
  ViTPatchEmbeddings(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name}, projection{this, "projection", c} {}
  Tensor forward(const Tensor& pixels) { return projection(pixels).flatten(2, 3).transpose(1, 2); }
  PatchConvolution projection;
};

struct ViTEmbeddings : ModuleOf<ViTEmbeddings> {
  ViTEmbeddings(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        cls_token{add_parameter("cls_token", {1, 1, c.hidden_size})},
        patch_embeddings{this, "patch_embeddings", c},
        position_embeddings{
            add_parameter("position_embeddings", {1, c.max_positions, c.hidden_size})},
        dropout{this, "dropout", c.hidden_dropout} {}
  Tensor forward(const Tensor& pixels) {
    Locals locals;
    Tensor& embeddings = locals.add(patch_embeddings(pixels));
    Tensor& cls_tokens = locals.add(cls_token.expand({pixels.size(0), -1, -1}));
    embeddings = torch::cat({cls_tokens, embeddings}, 1);
    embeddings = embeddings + position_embeddings;
    embeddings = dropout(embeddings);
    return embeddings;
  }
  Tensor cls_token;
  ViTPatchEmbeddings patch_embeddings;
  Tensor position_embeddings;
  Dropout dropout;
};

AttentionResult eager_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const AttentionCall& call) {
  Locals locals;
  Tensor& weights = locals.add(torch::matmul(query, key.transpose(2, 3)) * 1.0);
  Tensor& output = locals.add();
  weights = torch::softmax(weights, Dtype::float32).to(query.dtype());
  weights = torch::dropout(weights, call.dropout, call.training);
  output = torch::matmul(weights, value);
  output = output.transpose(1, 2).contiguous();
  return {output, weights};
}

struct ViTAttention : ModuleOf<ViTAttention> {
  ViTAttention(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        q_proj{this, "q_proj", c.hidden_size, c.hidden_size, c.qkv_bias},
        k_proj{this, "k_proj", c.hidden_size, c.hidden_size, c.qkv_bias},
        v_proj{this, "v_proj", c.hidden_size, c.hidden_size, c.qkv_bias},
        o_proj{this, "o_proj", c.hidden_size, c.hidden_size},
        head_dim{c.head_dim},
        dropout_p{c.attention_dropout},
        implementation{kind} {}
  AttentionResult forward(const Tensor& hidden_states) {
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
    {
      const AttentionCall call{implementation, dropout_p, false, training, {}};
      AttentionResult result = implementation == Attention::eager
                                   ? eager_attention(query, key, value, call)
                                   : attention_with_weights(query, key, value, call);
      output = std::move(result.output);
      weights = std::move(result.weights);
    }
    output = output.reshape({hidden_states.size(0), hidden_states.size(1), -1}).contiguous();
    output = o_proj(output);
    return {output, weights};
  }
  Linear q_proj;
  Linear k_proj;
  Linear v_proj;
  Linear o_proj;
  std::int64_t head_dim;
  double dropout_p;
  Attention implementation;
};

struct ViTMLP : ModuleOf<ViTMLP> {
  ViTMLP(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        fc1{this, "fc1", c.hidden_size, c.intermediate_size},
        fc2{this, "fc2", c.intermediate_size, c.hidden_size},
        activation_fn{this, "activation_fn",
                      [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {}
  Tensor forward(const Tensor& input) {
    Tensor hidden_states = fc1(input);
    hidden_states = activation_fn(hidden_states);
    hidden_states = fc2(hidden_states);
    return hidden_states;
  }
  Linear fc1;
  Linear fc2;
  torch::FunctionModule activation_fn;
};

struct ViTLayer : ModuleOf<ViTLayer> {
  ViTLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        attention{this, "attention", c, kind},
        layernorm_before{this, "layernorm_before", c.hidden_size},
        layernorm_after{this, "layernorm_after", c.hidden_size},
        mlp{this, "mlp", c},
        dropout{this, "dropout", c.hidden_dropout} {}
  [[nodiscard]] std::string_view type_name() const override { return "ViTLayer"; }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }
  Tensor forward(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& residual = locals.add();
    Tensor& weights = locals.add();  // the frame's "_"
    residual = hidden_states;
    hidden_states = layernorm_before(hidden_states);
    {
      AttentionResult result = attention(hidden_states);
      hidden_states = std::move(result.output);
      weights = std::move(result.weights);
    }
    hidden_states = dropout(hidden_states);
    hidden_states = hidden_states + residual;
    residual = hidden_states;
    hidden_states = layernorm_after(hidden_states);
    hidden_states = mlp(hidden_states);
    hidden_states = dropout(hidden_states);
    hidden_states = hidden_states + residual;
    return hidden_states;
  }
  ViTAttention attention;
  LayerNorm layernorm_before;
  LayerNorm layernorm_after;
  ViTMLP mlp;
  Dropout dropout;
};

struct ViTModel : ModuleOf<ViTModel> {
  ViTModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        embeddings{this, "embeddings", c},
        layers{this, "layers"},
        layernorm{this, "layernorm", c.hidden_size} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layers.append(c, kind);
    }
  }
  BaseOutput forward(const Tensor& pixels_argument) {
    Locals locals;
    Tensor& pixels = locals.add(pixels_argument);
    Tensor& embedding_output = locals.add();
    Tensor& hidden_states = locals.add();
    Tensor& sequence_output = locals.add();
    pixels = pixels.to(embeddings.patch_embeddings.projection.weight.dtype());
    embedding_output = embeddings(pixels);
    hidden_states = embedding_output;
    for (const auto& layer : layers) {
      if (checkpointing == Checkpoint::none) {
        hidden_states = (*layer)(hidden_states);
      } else {
        hidden_states = torch::checkpoint(
            [&module = *layer](const torch::TensorList& given) { return module(given[0]); },
            {hidden_states}, checkpointing == Checkpoint::full_reentrant);
      }
    }
    sequence_output = layernorm(hidden_states);
    return {sequence_output, {}};
  }
  ViTEmbeddings embeddings;
  ModuleList<ViTLayer> layers;
  LayerNorm layernorm;
  Checkpoint checkpointing{};
};

class ViT final : public LanguageModel {
 public:
  ViT(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""},
        config_{c},
        vit_{this, "vit", c, kind},
        classifier_{this, "classifier", c.hidden_size, c.labels} {}
  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    return {{"pixel_values",
             {shape.batch, config_.channels, config_.image_size, config_.image_size},
             Dtype::float32},
            {"labels", {shape.batch}, Dtype::int64}};
  }
  ModelOutput call(const Batch& batch) override {
    const BaseOutput outputs = vit_(batch.at("pixel_values"));
    Locals locals;
    Tensor& sequence_output = locals.add(outputs.last_hidden_state);
    Tensor& pooled_output = locals.add(sequence_output.select(1, 0));
    Tensor& logits = locals.add();
    Tensor& loss = locals.add();
    logits = classifier_(pooled_output);
    loss = torch::cross_entropy(logits.view({-1, config_.labels}), batch.at("labels").view({-1}));
    return {loss, {}, logits, {}};
  }
  void enable_checkpointing(Checkpoint kind) override { vit_.checkpointing = kind; }

 private:
  ModelConfig config_;
  ViTModel vit_;
  Linear classifier_;
};

void read(ConfigFields& fields, ModelConfig& config) {
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, ConfigFields::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, ConfigFields::kMaxWidth);
  config.intermediate_size =
      fields.size({"intermediate_size"}, std::nullopt, ConfigFields::kMaxWidth);
  config.activation = fields.activation("hidden_act", "gelu");
  config.hidden_dropout = fields.probability({"hidden_dropout_prob"}, 0.0);
  config.embedding_dropout = config.hidden_dropout;
  config.attention_dropout = fields.probability({"attention_probs_dropout_prob"}, 0.0);
  config.qkv_bias = fields.boolean({"qkv_bias"}, true);
  config.output_bias = config.mlp_bias = true;
  config.image_size = fields.square("image_size", 224, 65536);
  config.patch_size = fields.square("patch_size", 16, 65536);
  config.channels = fields.size({"num_channels"}, 3, 4096);
  if (config.patch_size > config.image_size) {
    fields.fail(fmt::format("field 'patch_size' is {}, more than image_size ({})",
                            config.patch_size, config.image_size));
  }
  const std::int64_t side = config.image_size / config.patch_size;
  config.max_positions = side * side + 1;
  fields.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
}

std::unique_ptr<LanguageModel> make(const ModelConfig& config, Attention attention) {
  return std::make_unique<ViT>(config, attention);
}

constexpr std::array<Head, 1> kHeads{{
    {"ViTForImageClassification", Task::image_classification},
}};

}  // namespace

/// Source: transformers 5.17, models/vit/modeling_vit.py.
const Family kVit{
    .name = "vit",
    .heads = kHeads,
    .read = read,
    .make = make,
    .positions = Positions::image,
};

}  // namespace peakcast::models
