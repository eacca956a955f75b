#pragma once

#include <cstdint>

#include "workloads/model_config.hpp"

/// What makes one decoder family differ from another: a row of fields beside its name. What a
/// config may change is in ModelConfig; this is what the modelling code fixes.
/// Source: transformers 5.17, models/NAME/modeling_NAME.py and configuration_NAME.py.
namespace peakcast::models {

struct DecoderTraits {
  /// How the root mean square norm is written out.
  enum class Norm : std::uint8_t {
    weight_last,   ///< weight * x.to(its own type)
    weight_first,  ///< (weight * x).to(its own type)
    one_plus,      ///< (x * (1 + weight)).to(its own type)
  };
  /// Where norms stand around attention and around the feed-forward.
  enum class NormPlace : std::uint8_t { before, after, around };
  /// What of queries and keys is normalised.
  enum class QueryKeyNorm : std::uint8_t {
    none,
    heads,             ///< each head, before heads and sequence change places
    heads_transposed,  ///< each head, after
    whole,             ///< all heads together
  };
  /// How rotary positions are applied.
  enum class Rotary : std::uint8_t {
    rotate_half,  ///< x * cos + rotate_half(x) * sin
    full_width,   ///< the same with fp32 tables, then cast back
    partial,      ///< the first dimensions only, joined with the rest
    halves,       ///< on the two halves of x, with tables of half the width
    interleaved,  ///< on even and odd dimensions (latent attention)
  };
  /// Which of the projections have a bias.
  enum class Bias : std::uint8_t {
    none,
    queries,    ///< queries, keys and values, always
    attention,  ///< attention_bias for attention's four
    by_config,  ///< the same, and mlp_bias for the feed-forward's
  };
  /// How attention windows are told.
  enum class Window : std::uint8_t {
    none,
    all,             ///< `sliding_window` is every layer's
    by_use,          ///< `use_sliding_window`, from layer `max_window_layers` on
    all_by_use,      ///< `use_sliding_window`, for every layer
    without_rotary,  ///< `use_sliding_window`, in layers without rotary positions
    alternating,     ///< every layer but each `window_pattern`-th
  };
  /// A feed-forward of routed experts.
  enum class Experts : std::uint8_t { none, mixtral, qwen3, gpt_oss, deepseek };

  // Defaults of the config.
  std::int64_t max_positions{2048};
  std::int64_t key_value_heads{};  ///< 0: as many as heads
  std::int64_t head_dim{};         ///< 0: hidden_size over heads
  std::int64_t window{};           ///< of `sliding_window`; 0: none
  bool tied{};                     ///< of tie_word_embeddings
  bool biased{};                   ///< of attention_bias
  Activation activation{Activation::silu};
  const char* activation_key{"hidden_act"};

  Norm norm{};
  NormPlace norm_place{};
  QueryKeyNorm query_key_norm{};
  Rotary rotary{};
  Bias bias{};
  Window windows{};
  std::int64_t window_pattern{2};
  Experts experts{};
  bool fused_projections{};  ///< one for q, k and v, one for gate and up
  bool embeddings_scaled{};  ///< by a one-element buffer
  bool soft_caps{};          ///< attn_logit_softcapping and final_logit_softcapping
  bool default_soft_caps{};  ///< which are there unless the config says null
  bool eager_soft_cap{};     ///< the scores' is passed to attention (eager alone heeds it)
  bool multipliers{};        ///< Granite's: of embeddings, residual branches and logits
  bool two_rotaries{};       ///< tables of their own for windowed layers
  bool residual_dropout{};   ///< resid_pdrop
  bool latent{};             ///< DeepSeek's latent attention
  bool sinks{};              ///< a learned score that takes part in each softmax
  bool eager_only{};         ///< has no sdpa attention
  /// All kinds of masks are made at once into a dictionary; else there is one mask.
  bool mask_dictionary{};
  bool both_masks{};         ///< of the dictionary, whether any layer wants them or not
  bool masks_without_ids{};  ///< made without position ids: no check for packed sequences
  /// Under checkpointing the layer's partial names the position ids after the rotary tables.
  bool position_ids_last{};
};

}  // namespace peakcast::models
