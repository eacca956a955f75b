#pragma once

#include <cstdint>

/// What makes one decoder family differ from another: a row of fields beside its name. What a
/// config may change is in ModelConfig; this is what the modelling code fixes.
/// Source: transformers 5.17, models/NAME/modeling_NAME.py and configuration_NAME.py.
namespace peakcast::models {

struct DecoderTraits {
  /// Which of the projections have a bias.
  enum class Bias : std::uint8_t {
    none,
    queries,    ///< queries, keys and values, always
    by_config,  ///< attention_bias for attention's four, mlp_bias for the feed-forward's
  };
  /// How attention windows are told.
  enum class Window : std::uint8_t {
    none,
    all,     ///< `sliding_window` is every layer's
    by_use,  ///< `use_sliding_window`, from layer `max_window_layers` on
  };

  std::int64_t max_positions{2048};  ///< default of max_position_embeddings
  std::int64_t key_value_heads{};    ///< default of num_key_value_heads; 0: as many as heads
  Bias bias{};
  Window window{};
  /// The masks of all kinds are made at once into a dictionary; else there is one mask.
  bool mask_dictionary{};
  /// Under checkpointing the layer's partial names the position ids after the rotary tables.
  bool position_ids_last{};
  bool mixture{};  ///< a feed-forward of routed experts
};

}  // namespace peakcast::models
