#pragma once

#include <string_view>
#include <utility>

#include "workloads/models/causal.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/models/llama_layers.hpp"
#include "workloads/models/router_loss.hpp"
#include "workloads/torch/checkpoint.hpp"

/// LlamaModel and LlamaForCausalLM around any feed-forward.
/// Source: transformers 5.17, models/{llama,mistral,qwen2,mixtral}/modeling_*.py.
namespace peakcast::models {

inline constexpr std::string_view kRouterClass = "MixtralTopKRouter";

template <class Feed>
struct DecoderModel : torch::ModuleOf<DecoderModel<Feed>> {
  DecoderModel(torch::Module* parent, std::string_view name, const ModelConfig& c, Attention kind)
      : torch::ModuleOf<DecoderModel<Feed>>{parent, name},
        embed_tokens{this, "embed_tokens", c.vocab_size, c.hidden_size},
        layers{this, "layers"},
        norm{this, "norm", c.hidden_size},
        rotary_emb{this, "rotary_emb", c.head_dim},
        config{c},
        implementation{kind} {
    for (std::int64_t i = 0; i < c.layers; ++i) {
      layers.append(c, kind);
    }
  }

  BaseOutput forward(const torch::Tensor& input_ids) {
    const bool caching = config.use_cache;
    KeyValueCache cache;
    torch::Locals locals;
    torch::Tensor& position_ids = locals.add();
    torch::Tensor& inputs_embeds = locals.add();
    torch::Tensor& mask = locals.add();
    torch::Tensor& window_mask = locals.add();
    torch::Tensor& hidden_states = locals.add();
    torch::Tensor& cos = locals.add();
    torch::Tensor& sin = locals.add();
    // Qwen2 makes a dictionary of masks, and the keywords for it outlive the names.
    torch::Tensor& embeds_keyword = locals.add();
    torch::Tensor& positions_keyword = locals.add();
    inputs_embeds = embed_tokens(input_ids);
    position_ids = make_position_ids(inputs_embeds.size(1));
    if (config.family == Family::qwen2) {
      embeds_keyword = inputs_embeds;
      positions_keyword = position_ids;
    }
    // Mistral has one mask, with its window; Qwen2 a full one, and one with a window where any
    // layer wants it.
    const bool mixed = config.family == Family::qwen2;
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
      const torch::Tensor& own_mask = windowed ? window_mask : mask;
      ++index;
      if (checkpointing == Checkpoint::none) {
        hidden_states = (*layer)(hidden_states, tables, own_mask, caching ? &cache : nullptr);
      } else {
        // What is not positional rides along in a partial, whose keywords go in the order of the
        // call; here what is captured last goes first. Llama and Qwen2 name the position ids after
        // the tables, Mistral and Mixtral before them.
        const bool named_last = config.family == Family::llama || config.family == Family::qwen2;
        const torch::Tensor none;
        hidden_states = torch::checkpoint(
            [&module = *layer, ids_last = named_last ? position_ids : none, tables,
             ids_first = named_last ? none : position_ids,
             given_mask = own_mask](const torch::TensorList& given) {
              return module(given[0], tables, given_mask, nullptr);
            },
            {hidden_states}, checkpointing == Checkpoint::full_reentrant);
      }
    }
    hidden_states = norm(hidden_states);
    return {hidden_states, std::move(cache)};
  }
  torch::Embedding embed_tokens;
  torch::ModuleList<DecoderLayer<Feed>> layers;
  RMSNorm norm;
  RotaryEmbedding rotary_emb;
  ModelConfig config;
  Attention implementation;
  Checkpoint checkpointing{};
};

template <class Feed>
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
    torch::TensorList router_logits = std::move(router_logits_);
    router_logits_.clear();
    torch::Locals locals;
    torch::Tensor& hidden_states = locals.add(outputs.last_hidden_state);
    torch::Tensor& logits = locals.add();
    torch::Tensor& loss = locals.add();
    // hidden_states[:, slice(0, None), :] is an alias of all of it.
    logits = lm_head_(hidden_states.view(hidden_states.sizes()));
    loss = causal_lm_loss(logits, batch.at("labels"), model_.config.vocab_size);
    ModelOutput output{loss, {}, logits, std::move(outputs.cache.tensors)};
    if (model_.config.router_loss) {
      torch::Tensor& aux_loss = locals.add(load_balancing_loss(router_logits, model_.config.experts,
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
    for (torch::Module* module : this->modules()) {
      if (module->type_name() == kRouterClass) {
        module->hooks.emplace_back([this](torch::Module&, torch::TensorList& outputs) {
          if (recording_) {
            router_logits_.push_back(outputs.front());
          }
        });
      }
    }
  }
  DecoderModel<Feed> model_;
  torch::Linear lm_head_;
  bool recording_{};
  torch::TensorList router_logits_{};
};

}  // namespace peakcast::models
