#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/core/error.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast {

struct Family;

/// Which head sits on top, and which inputs the model takes.
enum class Task : std::uint8_t {
  mlm,                   ///< masked language model: labels [batch, seq]
  pretraining,           ///< BERT's masked language model and next sentence
  classification,        ///< a sequence's class: labels [batch]
  causal_lm,             ///< next token: labels [batch, seq]
  image_classification,  ///< an image's class: labels [batch]
  seq2seq,               ///< encoder and decoder: labels [batch, target_seq]
  token_classification,  ///< each token's class: labels [batch, seq]
  question_answering,    ///< where an answer starts and ends: positions [batch]
};
/// `hidden_act` and its siblings: how the feed-forward's nonlinearity is computed.
enum class Activation : std::uint8_t { gelu, gelu_new, gelu_tanh, relu, silu, tanh };

[[nodiscard]] std::string_view to_string(Task task);
[[nodiscard]] std::string_view to_string(Activation activation);
/// An unknown word is an error that names the nearest valid one.
[[nodiscard]] Expected<Task> task_from(std::string_view word);
/// A name of transformers' ACT2FN; an unknown one likewise.
[[nodiscard]] Expected<Activation> activation_from(std::string_view word);

/// What decoders (and ModernBERT, built as they are) have beside their family's row
/// (models/decoder_traits.hpp). Empty lists: as
/// the comment says for every layer.
struct DecoderConfig {
  std::vector<bool> windowed{};   ///< per layer, whether it has the window; empty: as the mask
  std::vector<bool> no_rotary{};  ///< per layer, whether it goes without positions; empty: none
  std::vector<bool> dense{};      ///< per layer, whether a mixture has none there; empty: none
  std::int64_t rotary_dim{};      ///< of a head; the rest passes
  bool softcap_scores{};
  bool softcap_logits{};
  bool norm_bias{};  ///< ModernBERT's norms and the first layer of its heads
  bool head_bias{};
  bool pads{};  ///< pad_token_id is there: a sequence's end is looked for
  // Mixtures.
  bool normalise_weights{};
  std::int64_t shared_experts{};
  std::int64_t groups{};  ///< of experts; some of them are chosen first
  std::int64_t groups_kept{};
  // Latent attention.
  std::int64_t query_rank{};  ///< 0: queries are projected at once
  std::int64_t key_value_rank{};
  std::int64_t plain_dim{};  ///< of a head's keys, without positions
  std::int64_t value_dim{};
};

/// A model's dimensions and switches, in one vocabulary for all families: `hidden_size` is GPT-2's
/// n_embd and T5's d_model. A pure value that has been validated: every size is in range, heads
/// divide what they must. Fields that a family has no use for keep the values below.
/// Source of names and defaults: transformers 5.17, configuration_*.py of each family.
struct ModelConfig {
  std::string name{};      ///< the built-in name or the file it came from
  const Family* family{};  ///< never null in a config that was read (workloads/family.hpp)
  Task task{};

  std::int64_t vocab_size{};
  std::int64_t hidden_size{};
  std::int64_t layers{};  ///< of the encoder, where there are two stacks
  std::int64_t heads{};
  std::int64_t key_value_heads{};    ///< = heads without grouped-query attention; divides heads
  std::int64_t head_dim{};           ///< of one head; heads * head_dim may differ from hidden_size
  std::int64_t intermediate_size{};  ///< of the feed-forward; per expert in a mixture
  std::int64_t max_positions{};      ///< rows of the position table; a bound only if it is learned
  std::int64_t max_sequence{};       ///< what fits a table that counts from further on; 0: all
  std::int64_t embedding_size{};     ///< encoders: of the tables; ELECTRA's may be narrower
  std::int64_t type_vocab_size{};    ///< BERT's segments
  std::int64_t labels{2};            ///< classes of a classification head

  /// `dtype` or `torch_dtype`: the type that the weights are published in; null when not named.
  std::optional<Precision> precision{};

  Activation activation{};
  double hidden_dropout{};  ///< after embeddings and blocks (GPT-2: resid_pdrop; T5: dropout_rate)
  double embedding_dropout{};   ///< GPT-2's embd_pdrop; BERT, ViT and T5: = hidden_dropout
  double attention_dropout{};   ///< of the attention probabilities
  double classifier_dropout{};  ///< before the classification head

  bool tie_word_embeddings{};    ///< the output projection is the word embedding
  bool scale_decoder_outputs{};  ///< T5: by the square root of the width, before the projection
  bool use_cache{};              ///< false in training unless --set use_cache=true
  bool qkv_bias{};               ///< biases of q, k, v (Qwen2: always; Llama: attention_bias)
  bool output_bias{};            ///< bias of the attention's output projection
  bool mlp_bias{};               ///< biases of the feed-forward
  bool gated_mlp{};              ///< T5's gated feed-forward: two input matrices
  std::optional<std::int64_t> sliding_window{};  ///< attention window; null = full

  std::int64_t experts{};  ///< 0 = dense
  std::int64_t experts_per_token{};
  std::int64_t expert_size{};  ///< width of one expert's feed-forward
  bool router_loss{};          ///< output_router_logits: the load-balancing loss is added
  DecoderConfig decoder{};

  std::int64_t image_size{};  ///< pixels a side
  std::int64_t patch_size{};  ///< the image has (image_size / patch_size)^2 patches
  std::int64_t channels{};

  std::int64_t decoder_layers{};    ///< T5
  std::int64_t relative_buckets{};  ///< rows of T5's relative position table
};

/// `--set KEY=VALUE` pairs, in order; KEY is a key of config.json, VALUE is JSON or a bare word.
using ConfigOverrides = std::vector<std::pair<std::string, std::string>>;

/// Reads a Hugging Face config.json. Missing keys take the family's defaults; `task` "" means: from
/// `architectures`. Errors name the field (and for a syntax error line and column of `file`).
[[nodiscard]] Expected<ModelConfig> parse_model_config(std::string_view json,
                                                       const std::string& file,
                                                       const ConfigOverrides& overrides = {},
                                                       std::string_view task = "");

/// `model` is a built-in name (embedded_model_configs()), the path of a config.json, or its text (a
/// JSON object). An unknown
/// name that is no file is an error that names the nearest built-in.
[[nodiscard]] Expected<ModelConfig> load_model_config(const std::string& model,
                                                      const ConfigOverrides& overrides = {},
                                                      std::string_view task = "");

/// The text of the config.json that `model` names: a built-in name, a file, or a folder with one.
[[nodiscard]] Expected<std::string> config_text(const std::string& model);

/// Elements of all parameters, counted once where they are tied: of the modules that the family
/// builds.
[[nodiscard]] std::int64_t parameter_count(const ModelConfig& config);

}  // namespace peakcast
