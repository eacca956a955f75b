#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "workloads/config_fields.hpp"
#include "workloads/models/decoder.hpp"
#include "workloads/models/decoder_traits.hpp"
#include "workloads/models/families.hpp"

namespace peakcast::models {
namespace {

using F = ConfigFields;

void read_shape(ConfigFields& fields, ModelConfig& config) {
  const DecoderTraits& traits = *config.family->decoder;
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
  const std::int64_t groups =
      traits.key_value_heads == 0 ? config.heads : std::min(traits.key_value_heads, config.heads);
  config.key_value_heads = fields.size({"num_key_value_heads"}, groups, F::kMaxWidth);
  const auto head_dim = fields.maybe_size({"head_dim"}, F::kMaxWidth);
  if (!head_dim) {
    fields.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  }
  config.head_dim = head_dim.value_or(std::max<std::int64_t>(1, config.hidden_size / config.heads));
  fields.divides("num_key_value_heads", config.key_value_heads, "num_attention_heads",
                 config.heads);
  if (config.head_dim % 2 != 0) {
    fields.fail(
        fmt::format("field 'head_dim' is {}; rotary positions need an even one", config.head_dim));
  }
  config.max_positions =
      fields.size({"max_position_embeddings"}, traits.max_positions, F::kMaxPositions);
}

void read_window(ConfigFields& fields, ModelConfig& config) {
  switch (config.family->decoder->window) {
    case DecoderTraits::Window::none:
      break;
    case DecoderTraits::Window::all:
      config.sliding_window = fields.maybe_size({"sliding_window"}, F::kMaxPositions);
      break;
    case DecoderTraits::Window::by_use: {
      const bool windowed = fields.boolean({"use_sliding_window"}, false);
      const auto window = fields.maybe_size({"sliding_window"}, F::kMaxPositions);
      const std::int64_t full = fields.size({"max_window_layers"}, 28, F::kMaxLayers, 0);
      if (windowed && full < config.layers) {
        config.sliding_window = window.value_or(4096);
        config.full_layers = full;
      }
      break;
    }
  }
}

void read_experts(ConfigFields& fields, ModelConfig& config) {
  config.experts = fields.size({"num_local_experts", "num_experts"}, 8, F::kMaxExperts);
  config.experts_per_token = fields.size({"num_experts_per_tok"}, 2, F::kMaxExperts);
  config.router_loss = fields.boolean({"output_router_logits"}, false);
  if (config.experts_per_token > config.experts) {
    fields.fail(fmt::format("field 'num_experts_per_tok' is {}, more than num_local_experts ({})",
                            config.experts_per_token, config.experts));
  }
  fields.only("router_jitter_noise", 0.0);
}

void read(ConfigFields& fields, ModelConfig& config) {
  const DecoderTraits& traits = *config.family->decoder;
  read_shape(fields, config);
  config.activation = fields.activation("hidden_act", "silu");
  config.attention_dropout = fields.probability({"attention_dropout"}, 0.0);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, false);
  config.gated_mlp = true;
  if (traits.bias == DecoderTraits::Bias::by_config) {
    config.qkv_bias = config.output_bias = fields.boolean({"attention_bias"}, false);
    config.mlp_bias = fields.boolean({"mlp_bias"}, false);
  } else {
    config.qkv_bias = traits.bias == DecoderTraits::Bias::queries;
  }
  read_window(fields, config);
  if (traits.mixture) {
    read_experts(fields, config);
  }
}

constexpr DecoderTraits kLlamaTraits{
    .bias = DecoderTraits::Bias::by_config,
    .position_ids_last = true,
};
constexpr DecoderTraits kMistralTraits{
    .max_positions = 131072,
    .key_value_heads = 8,
    .window = DecoderTraits::Window::all,
};
constexpr DecoderTraits kMixtralTraits{
    .max_positions = 131072,
    .key_value_heads = 8,
    .window = DecoderTraits::Window::all,
    .mixture = true,
};
constexpr DecoderTraits kQwen2Traits{
    .max_positions = 32768,
    .bias = DecoderTraits::Bias::queries,
    .window = DecoderTraits::Window::by_use,
    .mask_dictionary = true,
    .position_ids_last = true,
};

constexpr std::array kLlamaHeads{Head{"LlamaForCausalLM", Task::causal_lm}};
constexpr std::array kMistralHeads{Head{"MistralForCausalLM", Task::causal_lm}};
constexpr std::array kMixtralHeads{Head{"MixtralForCausalLM", Task::causal_lm}};
constexpr std::array kQwen2Heads{Head{"Qwen2ForCausalLM", Task::causal_lm}};

constexpr Family row(std::string_view name, std::span<const Head> heads,
                     const DecoderTraits& traits) {
  return {.name = name,
          .heads = heads,
          .read = read,
          .make = make_decoder,
          .positions = Positions::advised,
          .decoder = &traits};
}

}  // namespace

const Family kLlama = row("llama", kLlamaHeads, kLlamaTraits);
const Family kMistral = row("mistral", kMistralHeads, kMistralTraits);
const Family kMixtral = row("mixtral", kMixtralHeads, kMixtralTraits);
const Family kQwen2 = row("qwen2", kQwen2Heads, kQwen2Traits);

}  // namespace peakcast::models
