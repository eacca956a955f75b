#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "workloads/config_fields.hpp"
#include "workloads/models/decoder.hpp"
#include "workloads/models/decoder_traits.hpp"
#include "workloads/models/families.hpp"

/// The decoders' rows, and the reader that they share.
namespace peakcast::models {
namespace {

using F = ConfigFields;
using Traits = DecoderTraits;

void read_heads(ConfigFields& fields, ModelConfig& config) {
  const Traits& traits = *config.family->decoder;
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  const std::int64_t groups =
      traits.key_value_heads == 0 ? config.heads : std::min(traits.key_value_heads, config.heads);
  config.key_value_heads = fields.size({"num_key_value_heads"}, groups, F::kMaxWidth);
  fields.divides("num_key_value_heads", config.key_value_heads, "num_attention_heads",
                 config.heads);
  if (traits.latent) {
    DecoderConfig& d = config.decoder;
    d.rotary_dim = fields.size({"qk_rope_head_dim"}, 64, F::kMaxWidth);
    d.plain_dim = fields.size({"qk_nope_head_dim"}, 128, F::kMaxWidth);
    d.value_dim = fields.size({"v_head_dim"}, 128, F::kMaxWidth);
    d.query_rank = fields.nullable_size("q_lora_rank", 1536, F::kMaxWidth).value_or(0);
    d.key_value_rank = fields.size({"kv_lora_rank"}, 512, F::kMaxWidth);
    config.head_dim = d.plain_dim + d.rotary_dim;
  } else {
    const auto head_dim = fields.maybe_size({"head_dim"}, F::kMaxWidth);
    if (!head_dim && traits.head_dim == 0) {
      fields.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
    }
    config.head_dim = head_dim.value_or(
        traits.head_dim > 0 ? traits.head_dim
                            : std::max<std::int64_t>(1, config.hidden_size / config.heads));
    config.decoder.rotary_dim = config.head_dim;
    if (traits.rotary == Traits::Rotary::partial) {
      config.decoder.rotary_dim = fields.scaled("partial_rotary_factor", config.head_dim);
    }
  }
  if (config.decoder.rotary_dim % 2 != 0) {
    fields.fail(fmt::format("field '{}' is {}; rotary positions need an even one",
                            traits.latent ? "qk_rope_head_dim" : "head_dim",
                            config.decoder.rotary_dim));
  }
}

void read_shape(ConfigFields& fields, ModelConfig& config) {
  const Traits& traits = *config.family->decoder;
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
  read_heads(fields, config);
  config.max_positions =
      fields.size({"max_position_embeddings"}, traits.max_positions, F::kMaxPositions);
}

/// Which layers have the window. `layer_types` says it where the family has such a list.
void read_window(ConfigFields& fields, ModelConfig& config) {
  const Traits& traits = *config.family->decoder;
  using Window = Traits::Window;
  const auto window_of = [&] {
    return fields.nullable_size("sliding_window", traits.window, F::kMaxPositions);
  };
  const auto mark = [&](const auto& rule) {
    for (std::int64_t i = 0; i < config.layers; ++i) {
      config.decoder.windowed.push_back(rule(i));
    }
    fields.layer_types(config.decoder.windowed);
  };
  switch (traits.windows) {
    case Window::none:
      return;
    case Window::all:
      config.sliding_window = window_of();
      return;
    case Window::all_by_use:
      if (const auto window = window_of(); fields.boolean({"use_sliding_window"}, false)) {
        config.sliding_window = window;
      }
      return;
    case Window::by_use: {
      const bool used = fields.boolean({"use_sliding_window"}, false);
      const auto window = window_of();
      const std::int64_t full = fields.size({"max_window_layers"}, 28, F::kMaxLayers, 0);
      config.sliding_window = used ? window : std::nullopt;
      mark([&](std::int64_t i) { return config.sliding_window && i >= full; });
      break;
    }
    case Window::without_rotary: {
      const bool used = fields.boolean({"use_sliding_window"}, false);
      const auto window = window_of();
      config.sliding_window = used ? window : std::nullopt;
      mark([&](std::int64_t i) {
        return config.sliding_window && config.decoder.no_rotary[static_cast<std::size_t>(i)];
      });
      break;
    }
    case Window::alternating: {
      config.sliding_window = window_of();
      const std::int64_t pattern =
          traits.two_rotaries
              ? fields.size({"sliding_window_pattern"}, traits.window_pattern, F::kMaxLayers)
              : traits.window_pattern;
      mark([&](std::int64_t i) { return (i + 1) % pattern != 0; });
      break;
    }
  }
}

void read_experts(ConfigFields& fields, ModelConfig& config) {
  using Experts = Traits::Experts;
  const Experts kind = config.family->decoder->experts;
  DecoderConfig& d = config.decoder;
  if (kind == Experts::deepseek) {
    config.experts = fields.size({"n_routed_experts", "num_local_experts"}, 256, F::kMaxExperts);
    d.shared_experts = fields.size({"n_shared_experts"}, 1, F::kMaxExperts, 0);
    d.groups = fields.size({"n_group"}, 8, F::kMaxExperts);
    d.groups_kept = fields.size({"topk_group"}, 4, F::kMaxExperts);
    fields.divides("n_group", d.groups, "n_routed_experts", config.experts);
    if (d.groups_kept > d.groups || 2 * d.groups > config.experts) {
      fields.fail(
          fmt::format("field 'n_group' is {}: groups of two experts at least, of which topk_group "
                      "({}) are kept",
                      d.groups, d.groups_kept));
    }
    const std::int64_t dense = fields.size({"first_k_dense_replace"}, 3, F::kMaxLayers, 0);
    for (std::int64_t i = 0; i < config.layers; ++i) {
      d.dense.push_back(i < dense);
    }
  } else {
    config.experts = fields.size({"num_local_experts", "num_experts"},
                                 kind == Experts::mixtral ? 8 : 128, F::kMaxExperts);
  }
  const std::int64_t chosen = kind == Experts::mixtral ? 2 : kind == Experts::gpt_oss ? 4 : 8;
  config.experts_per_token = fields.size({"num_experts_per_tok"}, chosen, F::kMaxExperts);
  config.expert_size = config.intermediate_size;
  if (kind == Experts::qwen3 || kind == Experts::deepseek) {
    config.expert_size =
        fields.size({"moe_intermediate_size"}, kind == Experts::qwen3 ? 768 : 2048, F::kMaxWidth);
  }
  d.normalise_weights =
      kind == Experts::mixtral ||
      (kind != Experts::gpt_oss && fields.boolean({"norm_topk_prob"}, kind == Experts::deepseek));
  if (kind == Experts::qwen3) {
    const std::int64_t step = fields.size({"decoder_sparse_step"}, 1, F::kMaxLayers);
    for (std::int64_t i = 0; i < config.layers; ++i) {
      d.dense.push_back((i + 1) % step != 0);
    }
    fields.marked_layers("mlp_only_layers", d.dense);
  }
  if (kind != Experts::deepseek) {
    config.router_loss = fields.boolean({"output_router_logits"}, false);
  }
  if (config.experts_per_token > config.experts) {
    fields.fail(fmt::format("field 'num_experts_per_tok' is {}, more than there are experts ({})",
                            config.experts_per_token, config.experts));
  }
  if (kind == Experts::mixtral) {
    fields.only("router_jitter_noise", 0.0);
  }
}

void read_extras(ConfigFields& fields, ModelConfig& config) {
  const Traits& traits = *config.family->decoder;
  DecoderConfig& d = config.decoder;
  if (traits.soft_caps) {
    d.softcap_scores = fields.given("attn_logit_softcapping", traits.default_soft_caps);
    d.softcap_logits = fields.given("final_logit_softcapping", traits.default_soft_caps);
    fields.only("use_bidirectional_attention", false);
  }
  if (traits.residual_dropout) {
    config.hidden_dropout = fields.probability({"resid_pdrop"}, 0.0);
  }
  if (traits.windows == Traits::Window::without_rotary) {
    const std::int64_t interval = fields.size({"no_rope_layer_interval"}, 4, F::kMaxLayers);
    for (std::int64_t i = 0; i < config.layers; ++i) {
      d.no_rotary.push_back((i + 1) % interval == 0);
    }
    fields.zero_layers("no_rope_layers", d.no_rotary);
  }
  if (traits.latent) {
    fields.only("rope_interleave", true);
  }
  d.pads = fields.given("pad_token_id", false);
}

void read(ConfigFields& fields, ModelConfig& config) {
  const Traits& traits = *config.family->decoder;
  read_shape(fields, config);
  config.activation = fields.activation(traits.activation_key, to_string(traits.activation));
  config.attention_dropout = fields.probability({"attention_dropout"}, 0.0);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, traits.tied);
  config.gated_mlp = true;
  switch (traits.bias) {
    case Traits::Bias::none:
      break;
    case Traits::Bias::queries:
      config.qkv_bias = true;
      break;
    case Traits::Bias::by_config:
      config.mlp_bias = fields.boolean({"mlp_bias"}, false);
      [[fallthrough]];
    case Traits::Bias::attention:
      config.qkv_bias = config.output_bias = fields.boolean({"attention_bias"}, traits.biased);
      break;
  }
  read_extras(fields, config);
  read_window(fields, config);
  if (traits.experts != Traits::Experts::none) {
    read_experts(fields, config);
  }
}

constexpr Traits kLlamaTraits{
    .bias = Traits::Bias::by_config,
    .position_ids_last = true,
};
constexpr Traits kMistralTraits{
    .max_positions = 131072,
    .key_value_heads = 8,
    .window = 4096,
    .windows = Traits::Window::all,
};
constexpr Traits kMixtralTraits{
    .max_positions = 131072,
    .key_value_heads = 8,
    .windows = Traits::Window::all,
    .experts = Traits::Experts::mixtral,
};
constexpr Traits kQwen2Traits{
    .max_positions = 32768,
    .window = 4096,
    .bias = Traits::Bias::queries,
    .windows = Traits::Window::by_use,
    .mask_dictionary = true,
    .position_ids_last = true,
};
constexpr Traits kQwen3Traits{
    .max_positions = 32768,
    .head_dim = 128,
    .window = 4096,
    .query_key_norm = Traits::QueryKeyNorm::heads,
    .bias = Traits::Bias::attention,
    .windows = Traits::Window::by_use,
    .mask_dictionary = true,
    .position_ids_last = true,
};
constexpr Traits kQwen3MoeTraits{
    .max_positions = 32768,
    .key_value_heads = 4,
    .window = 4096,
    .query_key_norm = Traits::QueryKeyNorm::heads,
    .bias = Traits::Bias::attention,
    .windows = Traits::Window::all_by_use,
    .experts = Traits::Experts::qwen3,
};
constexpr Traits kGemma2Traits{
    .max_positions = 8192,
    .key_value_heads = 4,
    .head_dim = 256,
    .window = 4096,
    .tied = true,
    .activation = Activation::gelu_tanh,
    .activation_key = "hidden_activation",
    .norm = Traits::Norm::one_plus,
    .norm_place = Traits::NormPlace::around,
    .bias = Traits::Bias::attention,
    .windows = Traits::Window::alternating,
    .embeddings_scaled = true,
    .soft_caps = true,
    .default_soft_caps = true,
    .eager_soft_cap = true,
    .mask_dictionary = true,
    .both_masks = true,
    .position_ids_last = true,
};
constexpr Traits kGemma3Traits{
    .max_positions = 131072,
    .key_value_heads = 4,
    .head_dim = 256,
    .window = 4096,
    .tied = true,
    .activation = Activation::gelu_tanh,
    .activation_key = "hidden_activation",
    .norm = Traits::Norm::one_plus,
    .norm_place = Traits::NormPlace::around,
    .query_key_norm = Traits::QueryKeyNorm::heads_transposed,
    .bias = Traits::Bias::attention,
    .windows = Traits::Window::alternating,
    .window_pattern = 6,
    .embeddings_scaled = true,
    .soft_caps = true,
    .two_rotaries = true,
    .mask_dictionary = true,
    .both_masks = true,
    .position_ids_last = true,
};
constexpr Traits kPhi3Traits{
    .max_positions = 4096,
    .rotary = Traits::Rotary::partial,
    .windows = Traits::Window::all,
    .fused_projections = true,
    .residual_dropout = true,
};
constexpr Traits kOlmo2Traits{
    .norm = Traits::Norm::weight_first,
    .norm_place = Traits::NormPlace::after,
    .query_key_norm = Traits::QueryKeyNorm::whole,
    .rotary = Traits::Rotary::full_width,
    .bias = Traits::Bias::attention,
    .position_ids_last = true,
};
constexpr Traits kSmolLm3Traits{
    .max_positions = 32768,
    .key_value_heads = 4,
    .tied = true,
    .bias = Traits::Bias::by_config,
    .windows = Traits::Window::without_rotary,
    .mask_dictionary = true,
    .position_ids_last = true,
};
constexpr Traits kGraniteTraits{
    .bias = Traits::Bias::by_config,
    .multipliers = true,
};
constexpr Traits kGptOssTraits{
    .max_positions = 131072,
    .key_value_heads = 8,
    .head_dim = 64,
    .window = 128,
    .biased = true,
    .norm = Traits::Norm::weight_first,
    .rotary = Traits::Rotary::halves,
    .bias = Traits::Bias::attention,
    .windows = Traits::Window::alternating,
    .experts = Traits::Experts::gpt_oss,
    .sinks = true,
    .eager_only = true,
    .mask_dictionary = true,
    .both_masks = true,
    .masks_without_ids = true,
    .position_ids_last = true,
};
constexpr Traits kDeepseekV3Traits{
    .max_positions = 4096,
    .rotary = Traits::Rotary::interleaved,
    .bias = Traits::Bias::attention,
    .experts = Traits::Experts::deepseek,
    .latent = true,
    .position_ids_last = true,
};

constexpr std::array kDeepseekV3Heads{
    Head{"DeepseekV3ForCausalLM", Task::causal_lm},
    Head{"DeepseekV3ForSequenceClassification", Task::classification}};
constexpr std::array kGemma2Heads{Head{"Gemma2ForCausalLM", Task::causal_lm},
                                  Head{"Gemma2ForSequenceClassification", Task::classification}};
constexpr std::array kGemma3Heads{
    Head{"Gemma3ForCausalLM", Task::causal_lm},
    Head{"Gemma3TextForSequenceClassification", Task::classification}};
constexpr std::array kGptOssHeads{Head{"GptOssForCausalLM", Task::causal_lm},
                                  Head{"GptOssForSequenceClassification", Task::classification}};
constexpr std::array kGraniteHeads{Head{"GraniteForCausalLM", Task::causal_lm}};
constexpr std::array kLlamaHeads{Head{"LlamaForCausalLM", Task::causal_lm},
                                 Head{"LlamaForSequenceClassification", Task::classification}};
constexpr std::array kMistralHeads{Head{"MistralForCausalLM", Task::causal_lm},
                                   Head{"MistralForSequenceClassification", Task::classification}};
constexpr std::array kMixtralHeads{Head{"MixtralForCausalLM", Task::causal_lm},
                                   Head{"MixtralForSequenceClassification", Task::classification}};
constexpr std::array kOlmo2Heads{Head{"Olmo2ForCausalLM", Task::causal_lm},
                                 Head{"Olmo2ForSequenceClassification", Task::classification}};
constexpr std::array kPhi3Heads{Head{"Phi3ForCausalLM", Task::causal_lm},
                                Head{"Phi3ForSequenceClassification", Task::classification}};
constexpr std::array kQwen2Heads{Head{"Qwen2ForCausalLM", Task::causal_lm},
                                 Head{"Qwen2ForSequenceClassification", Task::classification}};
constexpr std::array kQwen3Heads{Head{"Qwen3ForCausalLM", Task::causal_lm},
                                 Head{"Qwen3ForSequenceClassification", Task::classification}};
constexpr std::array kQwen3MoeHeads{
    Head{"Qwen3MoeForCausalLM", Task::causal_lm},
    Head{"Qwen3MoeForSequenceClassification", Task::classification}};
constexpr std::array kSmolLm3Heads{Head{"SmolLM3ForCausalLM", Task::causal_lm},
                                   Head{"SmolLM3ForSequenceClassification", Task::classification}};

constexpr Family row(std::string_view name, std::span<const Head> heads, const Traits& traits) {
  return {.name = name,
          .heads = heads,
          .read = read,
          .make = make_decoder,
          .positions = Positions::advised,
          .writes_scores = traits.eager_only,
          .eager_only = traits.eager_only,
          .decoder = &traits};
}

}  // namespace

const Family kDeepseekV3 = row("deepseek_v3", kDeepseekV3Heads, kDeepseekV3Traits);
const Family kGemma2 = row("gemma2", kGemma2Heads, kGemma2Traits);
const Family kGemma3 = row("gemma3_text", kGemma3Heads, kGemma3Traits);
const Family kGptOss = row("gpt_oss", kGptOssHeads, kGptOssTraits);
const Family kGranite = row("granite", kGraniteHeads, kGraniteTraits);
const Family kLlama = row("llama", kLlamaHeads, kLlamaTraits);
const Family kMistral = row("mistral", kMistralHeads, kMistralTraits);
const Family kMixtral = row("mixtral", kMixtralHeads, kMixtralTraits);
const Family kOlmo2 = row("olmo2", kOlmo2Heads, kOlmo2Traits);
const Family kPhi3 = row("phi3", kPhi3Heads, kPhi3Traits);
const Family kQwen2 = row("qwen2", kQwen2Heads, kQwen2Traits);
const Family kQwen3 = row("qwen3", kQwen3Heads, kQwen3Traits);
const Family kQwen3Moe = row("qwen3_moe", kQwen3MoeHeads, kQwen3MoeTraits);
const Family kSmolLm3 = row("smollm3", kSmolLm3Heads, kSmolLm3Traits);

}  // namespace peakcast::models
