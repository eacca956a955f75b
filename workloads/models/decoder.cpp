#include "workloads/models/decoder.hpp"

#include <string_view>
#include <utility>

#include "workloads/family.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/models/decoder_layers.hpp"
#include "workloads/models/decoder_traits.hpp"
#include "workloads/models/experts.hpp"
#include "workloads/models/latent_attention.hpp"
#include "workloads/models/router_loss.hpp"
#include "workloads/torch/checkpoint.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::Embedding;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;
using torch::TensorList;

/// `list[index]` of a list that may be empty.
bool at(const std::vector<bool>& list, std::int64_t index) {
  return !list.empty() && list[static_cast<std::size_t>(index)];
}

/// A decoder layer, registered as attention, feed-forward, then the norms.
struct DecoderLayer : ModuleOf<DecoderLayer> {
  DecoderLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind,
               std::int64_t index)
      : ModuleOf{parent, name}, config{c}, traits{*c.family->decoder} {
    if (traits.latent) {
      latent_attn = std::make_unique<LatentAttention>(this, "self_attn", c, kind);
    } else {
      self_attn = std::make_unique<DecoderAttention>(this, "self_attn", c, kind,
                                                     !at(c.decoder.no_rotary, index));
    }
    if (c.experts > 0 && !at(c.decoder.dense, index)) {
      experts = std::make_unique<ExpertsBlock>(this, "mlp", c);
    } else if (traits.fused_projections) {
      fused_mlp = std::make_unique<FusedGatedMLP>(this, "mlp", c);
    } else {
      mlp = std::make_unique<GatedMLP>(this, "mlp", c, c.intermediate_size);
    }
    const auto norm = [&](std::string_view norm_name) {
      return std::make_unique<RMSNorm>(this, norm_name, c.hidden_size, traits.norm);
    };
    using Place = DecoderTraits::NormPlace;
    if (traits.norm_place != Place::after) {
      before_attention = norm("input_layernorm");
    }
    if (traits.norm_place == Place::before) {
      before_feed = norm("post_attention_layernorm");
    } else {
      after_attention = norm("post_attention_layernorm");
    }
    if (traits.norm_place == Place::around) {
      before_feed = norm("pre_feedforward_layernorm");
    }
    if (traits.norm_place != Place::before) {
      after_feed = norm("post_feedforward_layernorm");
    }
  }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }

  Tensor forward(const Tensor& input, const RotaryTables& positions, const Tensor& mask,
                 KeyValueCache* cache) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& residual = locals.add();
    Tensor& weights = locals.add();  // the frame's "_"
    residual = hidden_states;
    if (before_attention) {
      hidden_states = (*before_attention)(hidden_states);
    }
    {
      AttentionResult result = latent_attn ? (*latent_attn)(hidden_states, positions, mask, cache)
                                           : (*self_attn)(hidden_states, positions, mask, cache);
      hidden_states = std::move(result.output);
      weights = std::move(result.weights);
    }
    if (after_attention) {
      hidden_states = (*after_attention)(hidden_states);
    }
    hidden_states = residual + branch(hidden_states);
    residual = hidden_states;
    if (before_feed) {
      hidden_states = (*before_feed)(hidden_states);
    }
    feed(hidden_states, weights);
    if (after_feed) {
      hidden_states = (*after_feed)(hidden_states);
    }
    hidden_states = residual + branch(hidden_states);
    return hidden_states;
  }

 private:
  /// What is added to the residual stream.
  [[nodiscard]] Tensor branch(const Tensor& hidden_states) const {
    if (traits.multipliers) {
      return hidden_states * 1.0;
    }
    return traits.residual_dropout ? torch::dropout(hidden_states, config.hidden_dropout, training)
                                   : hidden_states;
  }
  void feed(Tensor& hidden_states, Tensor& weights) {
    if (experts) {
      ExpertsResult result = (*experts)(hidden_states);
      hidden_states = std::move(result.output);
      if (result.scores.defined()) {  // gpt-oss's layer names them
        weights = std::move(result.scores);
      }
      return;
    }
    hidden_states = fused_mlp ? (*fused_mlp)(hidden_states) : (*mlp)(hidden_states);
  }
  const ModelConfig& config;
  const DecoderTraits& traits;
  std::unique_ptr<DecoderAttention> self_attn{};   ///< either this
  std::unique_ptr<LatentAttention> latent_attn{};  ///< or this
  std::unique_ptr<GatedMLP> mlp{};                 ///< one of
  std::unique_ptr<FusedGatedMLP> fused_mlp{};      ///< these
  std::unique_ptr<ExpertsBlock> experts{};         ///< three
  std::unique_ptr<RMSNorm> before_attention{};
  std::unique_ptr<RMSNorm> after_attention{};
  std::unique_ptr<RMSNorm> before_feed{};
  std::unique_ptr<RMSNorm> after_feed{};
};

/// nn.Embedding, times a one-element buffer where the family scales it.
struct WordEmbedding : ModuleOf<WordEmbedding> {
  WordEmbedding(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name}, weight{add_parameter("weight", {c.vocab_size, c.hidden_size})} {
    if (c.family->decoder->embeddings_scaled) {
      scale = add_buffer("embed_scale", {}, Dtype::float32);
    }
  }
  Tensor forward(const Tensor& indices) {
    if (!scale.defined()) {
      return torch::embedding(weight, indices);
    }
    return torch::embedding(weight, indices) * scale.to(weight.dtype());
  }
  [[nodiscard]] std::string_view type_name() const override { return "Embedding"; }
  Tensor weight;
  Tensor scale{};
};

struct DecoderModel : ModuleOf<DecoderModel> {
  DecoderModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        config{c},
        traits{*c.family->decoder},
        embed_tokens{this, "embed_tokens", config},
        layers{this, "layers"},
        norm{this, "norm", c.hidden_size, traits.norm},
        rotary_emb{this, "rotary_emb", c.decoder.rotary_dim, traits},
        implementation{kind} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layers.append(config, kind, i);
    }
    // Registered before the norm, although built after it here: the list was empty.
  }

  BaseOutput forward(const Tensor& input_ids, const Tensor& padding_mask) {
    const bool caching = config.use_cache;
    KeyValueCache cache;
    Locals locals;
    Tensor& position_ids = locals.add();
    Tensor& inputs_embeds = locals.add();
    Tensor& mask = locals.add();
    Tensor& window_mask = locals.add();
    Tensor& hidden_states = locals.add();
    Tensor& cos = locals.add();
    Tensor& sin = locals.add();
    Tensor& window_cos = locals.add();
    Tensor& window_sin = locals.add();
    // A dictionary of masks: the keywords for it outlive the names.
    Tensor& embeds_keyword = locals.add();
    Tensor& positions_keyword = locals.add();
    inputs_embeds = embed_tokens(input_ids);
    if (traits.multipliers) {
      inputs_embeds = inputs_embeds * 1.0;
    }
    position_ids = make_position_ids(inputs_embeds.size(1));
    if (traits.mask_dictionary) {
      embeds_keyword = inputs_embeds;
      positions_keyword = position_ids;
    }
    make_masks(inputs_embeds, position_ids, padding_mask, mask, window_mask);
    hidden_states = inputs_embeds;
    const auto tables_of = [&](bool windowed, Tensor& cosines, Tensor& sines) {
      RotaryTables tables = rotary_emb(hidden_states, position_ids, windowed);
      cosines = std::move(tables.cos);
      sines = std::move(tables.sin);
    };
    if (traits.two_rotaries) {  // of a Python set: in no order that a rule could tell
      tables_of(true, window_cos, window_sin);
    }
    tables_of(false, cos, sin);
    std::int64_t index = 0;
    for (const auto& layer : layers) {
      const bool windowed = at(config.decoder.windowed, index);
      const bool own_tables = traits.two_rotaries && windowed;
      run(*layer, hidden_states, {own_tables ? window_cos : cos, own_tables ? window_sin : sin},
          windowed ? window_mask : mask, position_ids, caching ? &cache : nullptr);
      ++index;
    }
    hidden_states = norm(hidden_states);
    return {hidden_states, std::move(cache)};
  }
  ModelConfig config;  ///< the layers refer to it
  const DecoderTraits& traits;
  WordEmbedding embed_tokens;
  ModuleList<DecoderLayer> layers;
  RMSNorm norm;
  RotaryEmbedding rotary_emb;
  Attention implementation;
  Checkpoint checkpointing{};

 private:
  /// One mask, with the window where all layers have it; or one of each kind.
  void make_masks(const Tensor& inputs_embeds, const Tensor& position_ids,
                  const Tensor& padding_mask, Tensor& mask, Tensor& window_mask) const {
    const auto& windowed = config.decoder.windowed;
    const bool mixed = traits.mask_dictionary;
    const auto make = [&](std::optional<std::int64_t> window) {
      return causal_mask(inputs_embeds, traits.masks_without_ids ? Tensor{} : position_ids,
                         {.implementation = implementation,
                          .sliding_window = window,
                          .with_cache = config.use_cache,
                          .padding = padding_mask});
    };
    mask = make(mixed ? std::nullopt : config.sliding_window);
    const bool wanted = std::find(windowed.begin(), windowed.end(), true) != windowed.end();
    if (mixed && (wanted || traits.both_masks)) {
      window_mask = make(config.sliding_window);
    }
  }

  void run(DecoderLayer& layer, Tensor& hidden_states, const RotaryTables& tables,
           const Tensor& mask, const Tensor& position_ids, KeyValueCache* cache) const {
    if (checkpointing == Checkpoint::none) {
      hidden_states = layer(hidden_states, tables, mask, cache);
      return;
    }
    // What is not positional rides along in a partial, whose keywords go in the order of the call;
    // here what is captured last goes first.
    const bool named_last = traits.position_ids_last;
    const Tensor none;
    hidden_states = torch::checkpoint(
        [&layer, ids_last = named_last ? position_ids : none, tables,
         ids_first = named_last ? none : position_ids,
         mask](const TensorList& given) { return layer(given[0], tables, mask, nullptr); },
        {hidden_states}, checkpointing == Checkpoint::full_reentrant);
  }
};

class DecoderLM final : public LanguageModel {
 public:
  DecoderLM(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""},
        model_{this, "model", c, kind},
        classifies_{c.task == Task::classification},
        head_{this, classifies_ ? "score" : "lm_head", c.hidden_size,
              classifies_ ? c.labels : c.vocab_size, false} {
    if (c.tie_word_embeddings && !classifies_) {
      head_.weight = model_.embed_tokens.weight;
      head_.own_parameters[0].tensor = model_.embed_tokens.weight;
    }
    if (c.router_loss) {
      record_routers();
    }
  }
  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    if (!classifies_) {
      return causal_lm_inputs(shape);
    }
    const torch::Shape tokens{shape.batch, shape.seq};
    return {{"input_ids", tokens, Dtype::int64},
            {"attention_mask", tokens, Dtype::int64},
            {"token_type_ids", tokens, Dtype::int64},
            {"labels", {shape.batch}, Dtype::int64}};
  }
  ModelOutput call(const Batch& batch) override {
    recording_ = true;
    BaseOutput outputs = model_(batch.at("input_ids"), batch.at("attention_mask"));
    recording_ = false;
    TensorList router_logits = std::move(router_logits_);
    router_logits_.clear();
    Locals locals;
    Tensor& hidden_states = locals.add(outputs.last_hidden_state);
    Tensor& logits = locals.add();
    Tensor& loss = locals.add();
    if (classifies_) {
      return classify(batch, hidden_states, logits);
    }
    if (fused_) {
      return fused_loss(batch.at("labels"), hidden_states, std::move(outputs.cache.tensors));
    }
    // hidden_states[:, slice(0, None), :] is an alias of all of it.
    logits = head_(hidden_states.view(hidden_states.sizes()));
    if (model_.config.decoder.softcap_logits) {
      logits = logits / 1.0;
      logits = torch::tanh(logits);
      logits = logits * 1.0;
    } else if (model_.traits.multipliers) {
      logits = logits / 1.0;
    }
    loss = causal_lm_loss(logits, batch.at("labels"), model_.config.vocab_size);
    ModelOutput output{loss, {}, logits, std::move(outputs.cache.tensors)};
    if (model_.config.router_loss) {
      Tensor& aux_loss = locals.add(load_balancing_loss(router_logits, model_.config.experts,
                                                        model_.config.experts_per_token));
      torch::add_in_place(loss, aux_loss * 1.0);
      output.loss = loss;
      output.aux_loss = aux_loss;
      // a tuple, which CPython takes apart from its end
      output.others.insert(output.others.end(), router_logits.rbegin(), router_logits.rend());
    }
    return output;
  }
  void enable_checkpointing(Checkpoint kind) override { model_.checkpointing = kind; }
  [[nodiscard]] Module* input_embeddings() override { return &model_.embed_tokens; }
  [[nodiscard]] bool fuse_loss() override {
    fused_ = !classifies_ && !model_.config.router_loss;
    return fused_;
  }

 private:
  /// Liger's lce_forward and LigerForCausalLMLoss: no logits are left.
  ModelOutput fused_loss(const Tensor& labels_argument, const Tensor& hidden_argument,
                         TensorList cache) {
    Locals locals;
    Tensor& hidden_states = locals.add(hidden_argument.view(hidden_argument.sizes()));
    Tensor& labels = locals.add(padded_labels(labels_argument));
    Tensor& shift_labels = locals.add(labels.slice(1, 1, labels.size(1)).contiguous());
    hidden_states = hidden_states.view({-1, hidden_argument.size(-1)});
    shift_labels = shift_labels.view({-1});
    Tensor loss = torch::fused_linear_cross_entropy(hidden_states, head_.weight, shift_labels);
    return {loss, {}, {}, std::move(cache)};
  }
  /// GenericForSequenceClassification: the scores of the last token that is no padding.
  ModelOutput classify(const Batch& batch, const Tensor& hidden_states, Tensor& logits) {
    Locals locals;
    const Tensor input_ids = batch.at("input_ids");
    const std::int64_t rows = input_ids.size(0);
    logits = head_(hidden_states);
    Tensor& not_padded = locals.add();
    Tensor& indices = locals.add();
    Tensor& last = locals.add();
    Tensor& pooled = locals.add();
    if (model_.config.decoder.pads) {
      {
        const Tensor differs = torch::pointwise("ne", {&input_ids}, Dtype::boolean);
        not_padded = differs.to(Dtype::int32);
      }
      indices = torch::arange(input_ids.size(1), Dtype::int32);
      const Tensor product = torch::pointwise("mul", {&indices, &not_padded}, Dtype::int32);
      last = torch::argmax(product);
      pooled = torch::index_pairs(logits, torch::arange(rows), last);
    } else {
      pooled = torch::index(logits.select(1, logits.size(1) - 1), torch::arange(rows));
    }
    Tensor loss = torch::cross_entropy(pooled.view({-1, model_.config.labels}),
                                       batch.at("labels").view({-1}));
    return {loss, {}, pooled, {}};
  }
  /// capture_outputs: the routers' logits of a forward pass (but not of a recomputation).
  void record_routers() {
    for (Module* module : this->modules()) {
      if (module->type_name() == kRouterClass) {
        module->hooks.emplace_back([this](Module&, TensorList& outputs) {
          if (recording_) {
            router_logits_.push_back(outputs.front());
          }
        });
      }
    }
  }
  DecoderModel model_;
  bool classifies_;
  bool fused_{};
  Linear head_;
  bool recording_{};
  TensorList router_logits_{};
};

}  // namespace

std::unique_ptr<LanguageModel> make_decoder(const ModelConfig& config, Attention attention) {
  const bool eager = config.family->decoder->eager_only;
  return std::make_unique<DecoderLM>(config, eager ? Attention::eager : attention);
}

}  // namespace peakcast::models
