#include "workloads/models/decoder.hpp"

#include <string_view>
#include <utility>

#include "workloads/family.hpp"
#include "workloads/models/causal.hpp"
#include "workloads/models/decoder_layers.hpp"
#include "workloads/models/decoder_traits.hpp"
#include "workloads/models/experts.hpp"
#include "workloads/models/router_loss.hpp"
#include "workloads/torch/checkpoint.hpp"

namespace peakcast::models {
namespace {

using torch::Embedding;
using torch::Linear;
using torch::Locals;
using torch::Module;
using torch::ModuleList;
using torch::ModuleOf;
using torch::Tensor;
using torch::TensorList;

/// A decoder layer, registered as attention, feed-forward, then the norms.
struct DecoderLayer : ModuleOf<DecoderLayer> {
  DecoderLayer(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name}, self_attn{this, "self_attn", c, kind} {
    if (c.experts > 0) {
      experts = std::make_unique<SparseMoeBlock>(this, "mlp", c);
    } else {
      mlp = std::make_unique<LlamaMLP>(this, "mlp", c);
    }
    input_layernorm = std::make_unique<RMSNorm>(this, "input_layernorm", c.hidden_size);
    post_attention_layernorm =
        std::make_unique<RMSNorm>(this, "post_attention_layernorm", c.hidden_size);
  }
  [[nodiscard]] bool is_transformer_layer() const override { return true; }

  Tensor forward(const Tensor& input, const RotaryTables& positions, const Tensor& mask,
                 KeyValueCache* cache) {
    Locals locals;
    Tensor& hidden_states = locals.add(input);
    Tensor& residual = locals.add();
    Tensor& weights = locals.add();  // the frame's "_"
    residual = hidden_states;
    hidden_states = (*input_layernorm)(hidden_states);
    {
      AttentionResult result = self_attn(hidden_states, positions, mask, cache);
      hidden_states = std::move(result.output);
      weights = std::move(result.weights);
    }
    hidden_states = residual + hidden_states;
    residual = hidden_states;
    hidden_states = (*post_attention_layernorm)(hidden_states);
    hidden_states = mlp ? (*mlp)(hidden_states) : (*experts)(hidden_states);
    hidden_states = residual + hidden_states;
    return hidden_states;
  }
  LlamaAttention self_attn;
  std::unique_ptr<LlamaMLP> mlp{};            ///< either this
  std::unique_ptr<SparseMoeBlock> experts{};  ///< or this
  std::unique_ptr<RMSNorm> input_layernorm{};
  std::unique_ptr<RMSNorm> post_attention_layernorm{};
};

struct DecoderModel : ModuleOf<DecoderModel> {
  DecoderModel(Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : ModuleOf{parent, name},
        embed_tokens{this, "embed_tokens", c.vocab_size, c.hidden_size},
        layers{this, "layers"},
        norm{this, "norm", c.hidden_size},
        rotary_emb{this, "rotary_emb", c.head_dim},
        config{c},
        traits{*c.family->decoder},
        implementation{kind} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layers.append(c, kind);
    }
  }

  BaseOutput forward(const Tensor& input_ids) {
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
    // Qwen2 makes a dictionary of masks, and the keywords for it outlive the names.
    Tensor& embeds_keyword = locals.add();
    Tensor& positions_keyword = locals.add();
    inputs_embeds = embed_tokens(input_ids);
    position_ids = make_position_ids(inputs_embeds.size(1));
    const bool mixed = traits.mask_dictionary;
    if (mixed) {
      embeds_keyword = inputs_embeds;
      positions_keyword = position_ids;
    }
    // Mistral has one mask, with its window; Qwen2 a full one, and one with a window where any
    // layer wants it.
    mask = causal_mask(inputs_embeds, position_ids,
                       {.implementation = implementation,
                        .sliding_window = mixed ? std::nullopt : config.sliding_window,
                        .with_cache = caching});
    if (mixed && config.sliding_window) {
      window_mask = causal_mask(inputs_embeds, position_ids,
                                {.implementation = implementation,
                                 .sliding_window = config.sliding_window,
                                 .with_cache = caching});
    }
    hidden_states = inputs_embeds;
    {
      RotaryTables tables = rotary_emb(hidden_states, position_ids);
      cos = std::move(tables.cos);
      sin = std::move(tables.sin);
    }
    std::int64_t index = 0;
    for (const auto& layer : layers) {
      const RotaryTables tables{cos, sin};
      const bool windowed = mixed && config.sliding_window && index >= config.full_layers;
      const Tensor& own_mask = windowed ? window_mask : mask;
      ++index;
      if (checkpointing == Checkpoint::none) {
        hidden_states = (*layer)(hidden_states, tables, own_mask, caching ? &cache : nullptr);
      } else {
        // What is not positional rides along in a partial, whose keywords go in the order of the
        // call; here what is captured last goes first. Llama and Qwen2 name the position ids after
        // the tables, Mistral and Mixtral before them.
        const bool named_last = traits.position_ids_last;
        const Tensor none;
        hidden_states = torch::checkpoint(
            [&module = *layer, ids_last = named_last ? position_ids : none, tables,
             ids_first = named_last ? none : position_ids, given_mask = own_mask](
                const TensorList& given) { return module(given[0], tables, given_mask, nullptr); },
            {hidden_states}, checkpointing == Checkpoint::full_reentrant);
      }
    }
    hidden_states = norm(hidden_states);
    return {hidden_states, std::move(cache)};
  }
  Embedding embed_tokens;
  ModuleList<DecoderLayer> layers;
  RMSNorm norm;
  RotaryEmbedding rotary_emb;
  ModelConfig config;
  const DecoderTraits& traits;
  Attention implementation;
  Checkpoint checkpointing{};
};

class DecoderLM final : public LanguageModel {
 public:
  DecoderLM(const ModelConfig& c, Attention kind)
      : LanguageModel{nullptr, ""},
        model_{this, "model", c, kind},
        lm_head_{this, "lm_head", c.hidden_size, c.vocab_size, false} {
    if (c.tie_word_embeddings) {
      lm_head_.weight = model_.embed_tokens.weight;
      lm_head_.own_parameters[0].tensor = model_.embed_tokens.weight;
    }
    if (c.router_loss) {
      record_routers();
    }
  }
  [[nodiscard]] std::vector<InputSpec> inputs(const BatchShape& shape) const override {
    return causal_lm_inputs(shape);
  }
  ModelOutput call(const Batch& batch) override {
    recording_ = true;
    BaseOutput outputs = model_(batch.at("input_ids"));
    recording_ = false;
    TensorList router_logits = std::move(router_logits_);
    router_logits_.clear();
    Locals locals;
    Tensor& hidden_states = locals.add(outputs.last_hidden_state);
    Tensor& logits = locals.add();
    Tensor& loss = locals.add();
    // hidden_states[:, slice(0, None), :] is an alias of all of it.
    logits = lm_head_(hidden_states.view(hidden_states.sizes()));
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

 private:
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
  Linear lm_head_;
  bool recording_{};
  TensorList router_logits_{};
};

}  // namespace

std::unique_ptr<LanguageModel> make_decoder(const ModelConfig& config, Attention attention) {
  return std::make_unique<DecoderLM>(config, attention);
}

}  // namespace peakcast::models
