#include "workloads/model_config.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/core/embedded.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/text_file.hpp"

namespace peakcast {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<std::string_view, Family>, 8> kFamilies{{
    {"bert", Family::bert},
    {"gpt2", Family::gpt2},
    {"llama", Family::llama},
    {"mistral", Family::mistral},
    {"mixtral", Family::mixtral},
    {"qwen2", Family::qwen2},
    {"t5", Family::t5},
    {"vit", Family::vit},
}};
constexpr std::array<std::pair<std::string_view, Task>, 6> kTasks{{
    {"mlm", Task::mlm},
    {"pretraining", Task::pretraining},
    {"classification", Task::classification},
    {"causal-lm", Task::causal_lm},
    {"image-classification", Task::image_classification},
    {"seq2seq", Task::seq2seq},
}};
/// Names of transformers' ACT2FN that the op library can run.
constexpr std::array<std::pair<std::string_view, Activation>, 8> kActivations{{
    {"gelu", Activation::gelu},
    {"gelu_new", Activation::gelu_new},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"relu", Activation::relu},
    {"silu", Activation::silu},
    {"swish", Activation::silu},
    {"swiglu", Activation::silu},
    {"tanh", Activation::tanh},
}};

/// A head of a family: what `architectures` calls it and what it is for. The first one of a family
/// is what a config without `architectures` means.
struct Head {
  std::string_view architecture;
  Family family;
  Task task;
};
constexpr std::array<Head, 10> kHeads{{
    {"BertForMaskedLM", Family::bert, Task::mlm},
    {"BertForPreTraining", Family::bert, Task::pretraining},
    {"BertForSequenceClassification", Family::bert, Task::classification},
    {"GPT2LMHeadModel", Family::gpt2, Task::causal_lm},
    {"LlamaForCausalLM", Family::llama, Task::causal_lm},
    {"MistralForCausalLM", Family::mistral, Task::causal_lm},
    {"Qwen2ForCausalLM", Family::qwen2, Task::causal_lm},
    {"MixtralForCausalLM", Family::mixtral, Task::causal_lm},
    {"ViTForImageClassification", Family::vit, Task::image_classification},
    {"T5ForConditionalGeneration", Family::t5, Task::seq2seq},
}};

template <class Table, class Value>
std::string_view word_of(const Table& table, Value value) {
  for (const auto& [word, entry] : table) {
    if (entry == value) {
      return word;
    }
  }
  return "?";
}

template <class Table>
std::vector<std::string_view> words_of(const Table& table) {
  std::vector<std::string_view> words;
  words.reserve(table.size());
  for (const auto& row : table) {
    words.push_back(row.first);
  }
  return words;
}

/// Keys of config.json that are read by nobody here because they move no memory. `--set` takes
/// them, so that a config's keys may be overridden without knowing which matter.
constexpr std::array<std::string_view, 39> kNeutralKeys{"initializer_range",
                                                        "layer_norm_eps",
                                                        "layer_norm_epsilon",
                                                        "rms_norm_eps",
                                                        "pad_token_id",
                                                        "bos_token_id",
                                                        "eos_token_id",
                                                        "sep_token_id",
                                                        "cls_token_id",
                                                        "decoder_start_token_id",
                                                        "rope_theta",
                                                        "rope_scaling",
                                                        "rope_parameters",
                                                        "pretraining_tp",
                                                        "torch_dtype",
                                                        "dtype",
                                                        "transformers_version",
                                                        "position_embedding_type",
                                                        "gradient_checkpointing",
                                                        "initializer_factor",
                                                        "summary_type",
                                                        "summary_use_proj",
                                                        "summary_activation",
                                                        "summary_proj_to_labels",
                                                        "summary_first_dropout",
                                                        "scale_attn_weights",
                                                        "scale_attn_by_inverse_layer_idx",
                                                        "router_aux_loss_coef",
                                                        "relative_attention_max_distance",
                                                        "encoder_stride",
                                                        "pooler_output_size",
                                                        "pooler_act",
                                                        "label2id",
                                                        "problem_type",
                                                        "task_specific_params",
                                                        "n_ctx",
                                                        "_name_or_path",
                                                        "output_past",
                                                        "directionality"};

/// Reads fields of one JSON object, keeps the first fault and remembers every key it was asked for.
class Fields {
 public:
  Fields(const Json& object, std::string file) : object_{object}, file_{std::move(file)} {}

  void fail(std::string message) {
    if (!error_) {
      error_ = invalid_input(std::move(message), InputPosition{.file = file_});
    }
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] const std::vector<std::string_view>& known() const { return known_; }

  /// `names`: the family's own key first, then the name that transformers maps to it.
  using Names = std::initializer_list<std::string_view>;

  std::int64_t size(Names names, std::optional<std::int64_t> fallback, std::int64_t maximum,
                    std::int64_t minimum = 1) {
    const auto found = maybe_size(names, maximum, minimum);
    if (!found && !fallback) {
      fail(fmt::format("field '{}' is missing", *names.begin()));
    }
    return found.value_or(fallback.value_or(minimum));
  }

  std::optional<std::int64_t> maybe_size(Names names, std::int64_t maximum,
                                         std::int64_t minimum = 1) {
    const auto [name, value] = find(names);
    if (value == nullptr || value->is_null()) {
      return std::nullopt;
    }
    return whole(name, *value, maximum, minimum);
  }

  /// A number, or a list of equal numbers ([224, 224]).
  std::int64_t square(std::string_view key, std::int64_t fallback, std::int64_t maximum) {
    const auto [name, value] = find({key});
    if (value == nullptr || value->is_null()) {
      return fallback;
    }
    if (!value->is_array()) {
      return whole(name, *value, maximum, 1);
    }
    if (value->empty() ||
        std::adjacent_find(value->begin(), value->end(), std::not_equal_to<>{}) != value->end()) {
      fail(fmt::format("field '{}' is {}: only squares are supported", name, value->dump()));
      return fallback;
    }
    return whole(name, value->front(), maximum, 1);
  }

  double probability(Names names, double fallback) {
    const auto [name, value] = find(names);
    if (value == nullptr || value->is_null()) {
      return fallback;
    }
    if (!value->is_number()) {
      fail(fmt::format("field '{}' is not a number", name));
      return fallback;
    }
    const double p = value->get<double>();
    if (!(p >= 0.0 && p < 1.0)) {
      fail(fmt::format("field '{}' is {}; a dropout probability is at least 0 and below 1", name,
                       value->dump()));
      return fallback;
    }
    return p;
  }

  bool boolean(Names names, bool fallback) {
    const auto [name, value] = find(names);
    if (value == nullptr || value->is_null()) {
      return fallback;
    }
    if (!value->is_boolean()) {
      fail(fmt::format("field '{}' is {}, not true or false", name, value->dump()));
      return fallback;
    }
    return value->get<bool>();
  }

  std::string text(Names names, std::string fallback) {
    const auto [name, value] = find(names);
    if (value == nullptr || value->is_null()) {
      return fallback;
    }
    if (!value->is_string()) {
      fail(fmt::format("field '{}' is not a string", name));
      return fallback;
    }
    return value->get<std::string>();
  }

  Activation activation(std::string_view key, std::string_view fallback) {
    return activation_from(key, text({key}, std::string{fallback}));
  }
  Activation activation_from(std::string_view key, const std::string& word) {
    for (const auto& [name, activation] : kActivations) {
      if (name == word) {
        return activation;
      }
    }
    fail(fmt::format("field '{}': {}", key,
                     unknown_word("activation", word, words_of(kActivations))));
    return Activation::gelu;
  }

  /// num_labels, or the number of entries of id2label; transformers' default is 2.
  std::int64_t labels() {
    const auto [name, map] = find({"id2label"});
    if (map != nullptr && map->is_object() && !map->empty()) {
      return size({"num_labels"}, static_cast<std::int64_t>(map->size()), kMaxWidth);
    }
    return size({"num_labels"}, 2, kMaxWidth);
  }

  /// What is read by nobody here must have the value that the model code below assumes.
  void only(std::string_view key, const Json& supported) {
    const auto [name, value] = find({key});
    if (value != nullptr && !value->is_null() && *value != supported) {
      fail(fmt::format("field '{}' is {}; only {} is supported", name, value->dump(),
                       supported.dump()));
    }
  }

  // Bounds of sanity, far above any model that was ever built: no product of the sizes that a model
  // makes of them passes 2^62.
  static constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;
  static constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
  static constexpr std::int64_t kMaxLayers = 4096;
  static constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;
  static constexpr std::int64_t kMaxExperts = 4096;

 private:
  std::pair<std::string_view, const Json*> find(Names names) {
    known_.insert(known_.end(), names.begin(), names.end());
    for (const std::string_view name : names) {
      const auto at = object_.find(std::string{name});
      if (at != object_.end()) {
        return {name, &*at};
      }
    }
    return {*names.begin(), nullptr};
  }

  std::int64_t whole(std::string_view name, const Json& value, std::int64_t maximum,
                     std::int64_t minimum) {
    if (!value.is_number_integer()) {
      fail(fmt::format("field '{}' is {}, not a whole number", name, shortened(value)));
      return minimum;
    }
    const bool too_big = value.is_number_unsigned() &&
                         value.get<std::uint64_t>() > static_cast<std::uint64_t>(maximum);
    const std::int64_t number = too_big ? maximum : value.get<std::int64_t>();
    if (too_big || number > maximum || number < minimum) {
      fail(fmt::format("field '{}' is {}; it must be in {}..{}", name, value.dump(), minimum,
                       maximum));
      return minimum;
    }
    return number;
  }

  static std::string shortened(const Json& value) {
    const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 57) + "..." : text;
  }

  const Json& object_;
  std::string file_;
  std::optional<Error> error_{};
  std::vector<std::string_view> known_{};
};

using F = Fields;

void divides(Fields& fields, std::string_view part, std::int64_t count, std::string_view whole,
             std::int64_t size) {
  if (count > 0 && size % count != 0) {
    fields.fail(
        fmt::format("field '{}' is {}, which does not divide {} ({})", part, count, whole, size));
  }
}

void read_bert(Fields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
  config.max_positions = fields.size({"max_position_embeddings"}, 512, F::kMaxPositions);
  config.type_vocab_size = fields.size({"type_vocab_size"}, 2, F::kMaxVocabulary);
  config.activation = fields.activation("hidden_act", "gelu");
  config.hidden_dropout = fields.probability({"hidden_dropout_prob"}, 0.1);
  config.embedding_dropout = config.hidden_dropout;
  config.attention_dropout = fields.probability({"attention_probs_dropout_prob"}, 0.1);
  config.classifier_dropout = fields.probability({"classifier_dropout"}, config.hidden_dropout);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  fields.only("is_decoder", false);
  fields.only("add_cross_attention", false);
  divides(fields, "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
}

void read_gpt2(Fields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"n_embd", "hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"n_layer", "num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"n_head", "num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size =
      fields.size({"n_inner"}, std::min(4 * config.hidden_size, F::kMaxWidth), F::kMaxWidth);
  config.max_positions =
      fields.size({"n_positions", "max_position_embeddings"}, 1024, F::kMaxPositions);
  config.activation = fields.activation("activation_function", "gelu_new");
  config.hidden_dropout = fields.probability({"resid_pdrop"}, 0.1);
  config.embedding_dropout = fields.probability({"embd_pdrop"}, 0.1);
  config.attention_dropout = fields.probability({"attn_pdrop"}, 0.1);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  fields.only("add_cross_attention", false);
  fields.only("reorder_and_upcast_attn", false);
  divides(fields, "n_head", config.heads, "n_embd", config.hidden_size);
}

/// Llama and its kin: rotary positions, RMSNorm, a gated feed-forward without biases.
void read_llama(Fields& fields, ModelConfig& config) {
  const bool mixture = config.family == Family::mixtral;
  const bool grouped = mixture || config.family == Family::mistral;
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
  config.key_value_heads =
      fields.size({"num_key_value_heads"},
                  grouped ? std::min<std::int64_t>(8, config.heads) : config.heads, F::kMaxWidth);
  const auto head_dim = fields.maybe_size({"head_dim"}, F::kMaxWidth);
  if (!head_dim) {
    divides(fields, "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  }
  config.head_dim = head_dim.value_or(std::max<std::int64_t>(1, config.hidden_size / config.heads));
  divides(fields, "num_key_value_heads", config.key_value_heads, "num_attention_heads",
          config.heads);
  if (config.head_dim % 2 != 0) {
    fields.fail(
        fmt::format("field 'head_dim' is {}; rotary positions need an even one", config.head_dim));
  }
  constexpr std::int64_t kLong = std::int64_t{4096} * 32;
  config.max_positions = fields.size({"max_position_embeddings"},
                                     grouped                          ? kLong
                                     : config.family == Family::qwen2 ? 32768
                                                                      : 2048,
                                     F::kMaxPositions);
  config.activation = fields.activation("hidden_act", "silu");
  config.attention_dropout = fields.probability({"attention_dropout"}, 0.0);
  config.tie_word_embeddings = fields.boolean({"tie_word_embeddings"}, false);
  config.gated_mlp = true;
  if (config.family == Family::llama) {
    config.qkv_bias = config.output_bias = fields.boolean({"attention_bias"}, false);
    config.mlp_bias = fields.boolean({"mlp_bias"}, false);
  } else if (config.family == Family::qwen2) {
    config.qkv_bias = true;
    const bool windowed = fields.boolean({"use_sliding_window"}, false);
    const auto window = fields.maybe_size({"sliding_window"}, F::kMaxPositions);
    const std::int64_t full = fields.size({"max_window_layers"}, 28, F::kMaxLayers, 0);
    if (windowed) {
      config.sliding_window = window.value_or(4096);
      config.full_layers = std::min(full, config.layers);
    }
    if (config.sliding_window && config.full_layers == config.layers) {
      config.sliding_window.reset();
    }
  } else {
    config.sliding_window = fields.maybe_size({"sliding_window"}, F::kMaxPositions);
  }
  if (mixture) {
    config.experts = fields.size({"num_local_experts", "num_experts"}, 8, F::kMaxExperts);
    config.experts_per_token = fields.size({"num_experts_per_tok"}, 2, F::kMaxExperts);
    config.router_loss = fields.boolean({"output_router_logits"}, false);
    if (config.experts_per_token > config.experts) {
      fields.fail(fmt::format("field 'num_experts_per_tok' is {}, more than num_local_experts ({})",
                              config.experts_per_token, config.experts));
    }
    fields.only("router_jitter_noise", 0.0);
  }
}

void read_vit(Fields& fields, ModelConfig& config) {
  config.hidden_size = fields.size({"hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.intermediate_size = fields.size({"intermediate_size"}, std::nullopt, F::kMaxWidth);
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
  divides(fields, "num_attention_heads", config.heads, "hidden_size", config.hidden_size);
}

void read_t5(Fields& fields, ModelConfig& config) {
  config.vocab_size = fields.size({"vocab_size"}, std::nullopt, F::kMaxVocabulary);
  config.hidden_size = fields.size({"d_model", "hidden_size"}, std::nullopt, F::kMaxWidth);
  config.layers = fields.size({"num_layers", "num_hidden_layers"}, std::nullopt, F::kMaxLayers);
  config.heads = fields.size({"num_heads", "num_attention_heads"}, std::nullopt, F::kMaxWidth);
  config.head_dim = fields.size({"d_kv", "head_dim"}, 64, F::kMaxWidth);
  config.intermediate_size = fields.size({"d_ff"}, std::nullopt, F::kMaxWidth);
  config.decoder_layers = fields.size({"num_decoder_layers"}, config.layers, F::kMaxLayers);
  config.relative_buckets =
      fields.size({"relative_attention_num_buckets"}, 32, std::int64_t{1} << 20);
  config.max_positions = F::kMaxPositions;  // positions are relative: no table bounds them
  config.hidden_dropout = fields.probability({"dropout_rate"}, 0.1);
  config.embedding_dropout = config.attention_dropout = config.hidden_dropout;
  // transformers 5 ties T5's embeddings whatever the config says (T5Config.__post_init__); the key
  // only decides whether the decoder's output is scaled.
  config.scale_decoder_outputs = fields.boolean({"tie_word_embeddings"}, true);
  config.tie_word_embeddings = true;
  const std::string feed_forward = fields.text({"feed_forward_proj"}, "relu");
  constexpr std::string_view kGated = "gated-";
  config.gated_mlp = feed_forward.starts_with(kGated);
  const std::string activation =
      config.gated_mlp ? feed_forward.substr(kGated.size()) : feed_forward;
  // As T5Config.__post_init__: "gated-gelu" means gelu_new.
  config.activation = fields.activation_from(
      "feed_forward_proj", feed_forward == "gated-gelu" ? "gelu_new" : activation);
}

void read_task(Fields& fields, const Json& object, std::string_view asked, ModelConfig& config) {
  std::vector<std::string_view> possible;
  for (const Head& head : kHeads) {
    if (head.family == config.family) {
      possible.push_back(to_string(head.task));
    }
  }
  if (!asked.empty()) {
    const auto task = task_from(asked);
    if (!task) {
      fields.fail(task.error().message);
      return;
    }
    if (std::find(possible.begin(), possible.end(), asked) == possible.end()) {
      fields.fail(fmt::format("task '{}' is not one of {}'s ({})", asked, to_string(config.family),
                              fmt::join(possible, ", ")));
    }
    config.task = *task;
    return;
  }
  const auto architectures = object.find("architectures");
  if (architectures == object.end() || architectures->is_null() ||
      (architectures->is_array() && architectures->empty())) {
    for (const Head& head : kHeads) {
      if (head.family == config.family) {
        config.task = head.task;
        return;
      }
    }
  }
  if (!architectures->is_array() || !architectures->front().is_string()) {
    fields.fail("field 'architectures' is not a list of strings");
    return;
  }
  const std::string name = architectures->front().get<std::string>();
  std::vector<std::string_view> names;
  for (const Head& head : kHeads) {
    if (head.family == config.family) {
      names.push_back(head.architecture);
      if (head.architecture == name) {
        config.task = head.task;
        return;
      }
    }
  }
  fields.fail(fmt::format("field 'architectures': {}; or choose a task ({})",
                          unknown_word("architecture", name, names), fmt::join(possible, ", ")));
}

Expected<Json> parse_object(std::string_view text, const std::string& file) {
  Json object;
  try {
    object = Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    return invalid_input("not valid JSON",
                         position_in(text, error.byte == 0 ? 0 : error.byte - 1, file));
  }
  if (!object.is_object()) {
    return invalid_input("a config is a JSON object", InputPosition{.file = file});
  }
  return object;
}

Expected<Ok> apply(const ConfigOverrides& overrides, Json& object) {
  for (const auto& [key, text] : overrides) {
    if (key.empty()) {
      return invalid_input("an override without a key");
    }
    Json value = Json::parse(text, nullptr, false);
    object[key] = value.is_discarded() ? Json(text) : std::move(value);
  }
  return Ok{};
}

}  // namespace

std::string_view to_string(Family family) { return word_of(kFamilies, family); }
std::string_view to_string(Task task) { return word_of(kTasks, task); }
std::string_view to_string(Activation activation) { return word_of(kActivations, activation); }

Expected<Task> task_from(std::string_view word) {
  for (const auto& [name, task] : kTasks) {
    if (name == word) {
      return task;
    }
  }
  return invalid_input(unknown_word("task", word, words_of(kTasks)));
}

Expected<ModelConfig> parse_model_config(std::string_view json, const std::string& file,
                                         const ConfigOverrides& overrides, std::string_view task) {
  auto parsed = parse_object(json, file);
  if (!parsed) {
    return parsed.error();
  }
  Json& object = *parsed;
  // A key that the file spells in transformers' common vocabulary and the override in the family's
  // own (or the other way round) is one field: the override wins because it is found first.
  constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kSynonyms{{
      {"n_embd", "hidden_size"},
      {"n_layer", "num_hidden_layers"},
      {"n_head", "num_attention_heads"},
      {"n_positions", "max_position_embeddings"},
      {"d_model", "hidden_size"},
      {"num_layers", "num_hidden_layers"},
      {"num_heads", "num_attention_heads"},
      {"d_kv", "head_dim"},
      {"num_local_experts", "num_experts"},
  }};
  for (const auto& [key, value] : overrides) {
    for (const auto& [own, common] : kSynonyms) {
      if (key == own || key == common) {
        object.erase(std::string{key == own ? common : own});
      }
    }
  }
  if (const auto done = apply(overrides, object); !done) {
    return done.error();
  }

  Fields fields{object, file};
  ModelConfig config;
  config.name = file;
  const std::string model_type = fields.text({"model_type"}, "");
  if (fields.error()) {
    return *fields.error();
  }
  if (model_type.empty()) {
    return invalid_input("field 'model_type' is missing", InputPosition{.file = file});
  }
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(),
                                   [&](const auto& row) { return row.first == model_type; });
  if (family == kFamilies.end()) {
    return invalid_input(fmt::format("field 'model_type': {} (supported: {})",
                                     unknown_word("architecture", model_type, words_of(kFamilies)),
                                     fmt::join(words_of(kFamilies), ", ")),
                         InputPosition{.file = file});
  }
  config.family = family->second;
  if (object.contains("quantization_config") && !object["quantization_config"].is_null()) {
    fields.fail("field 'quantization_config': quantised models are not supported");
  }
  switch (config.family) {
    case Family::bert:
      read_bert(fields, config);
      break;
    case Family::gpt2:
      read_gpt2(fields, config);
      break;
    case Family::llama:
    case Family::mistral:
    case Family::qwen2:
    case Family::mixtral:
      read_llama(fields, config);
      break;
    case Family::vit:
      read_vit(fields, config);
      break;
    case Family::t5:
      read_t5(fields, config);
      break;
  }
  if (config.head_dim == 0) {
    config.head_dim = std::max<std::int64_t>(1, config.hidden_size / config.heads);
  }
  if (config.key_value_heads == 0) {
    config.key_value_heads = config.heads;
  }
  if (config.heads * config.head_dim > F::kMaxWidth) {
    fields.fail(fmt::format("heads times head size is {}, more than {}",
                            config.heads * config.head_dim, F::kMaxWidth));
  }
  config.labels = fields.labels();
  // Off in a training loop, whatever the file says: only --set brings it back.
  static_cast<void>(fields.boolean({"use_cache"}, true));
  for (const auto& [key, value] : overrides) {
    if (key == "use_cache") {
      config.use_cache = value == "true";
    }
  }
  fields.only("chunk_size_feed_forward", 0);
  read_task(fields, object, task, config);
  if ((config.task == Task::classification || config.task == Task::image_classification) &&
      config.labels < 2) {
    fields.fail("field 'num_labels' is 1, which means regression; classes are supported only");
  }

  std::vector<std::string_view> known = fields.known();
  known.insert(known.end(), {"model_type", "architectures"});
  known.insert(known.end(), kNeutralKeys.begin(), kNeutralKeys.end());
  for (const auto& [key, value] : overrides) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return invalid_input(fmt::format("--set: {}", unknown_word("field", key, known)));
    }
  }
  if (fields.error()) {
    return *fields.error();
  }
  return config;
}

Expected<ModelConfig> load_model_config(const std::string& model, const ConfigOverrides& overrides,
                                        std::string_view task) {
  const auto builtins = embedded_model_configs();
  const auto found = std::find_if(builtins.begin(), builtins.end(),
                                  [&](const EmbeddedFile& entry) { return entry.name == model; });
  if (found != builtins.end()) {
    return parse_model_config(found->text, model, overrides, task);
  }
  std::error_code error;
  std::filesystem::path path{model};
  if (std::filesystem::is_directory(path, error)) {
    path /= "config.json";  // as a downloaded checkpoint has it
  }
  const bool looks_like_a_path = model.find('/') != std::string::npos || model.ends_with(".json");
  if (!looks_like_a_path && !std::filesystem::exists(path, error)) {
    std::vector<std::string_view> names;
    for (const EmbeddedFile& entry : builtins) {
      names.push_back(entry.name);
    }
    return invalid_input(
        fmt::format("{}, and there is no such file", unknown_word("model", model, names)));
  }
  const auto text = read_text_file(path.string());
  if (!text) {
    return text.error();
  }
  return parse_model_config(*text, path.string(), overrides, task);
}

namespace {

/// Elements of a linear layer.
constexpr std::int64_t linear(std::int64_t in, std::int64_t out, bool bias) {
  return in * out + (bias ? out : 0);
}

std::int64_t bert_parameters(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size;
  const std::int64_t norm = 2 * h;
  const std::int64_t embeddings = (c.vocab_size + c.max_positions + c.type_vocab_size) * h + norm;
  const std::int64_t layer = 4 * linear(h, h, true) + linear(h, c.intermediate_size, true) +
                             linear(c.intermediate_size, h, true) + 2 * norm;
  const std::int64_t pooler = linear(h, h, true);
  const std::int64_t decoder =
      c.vocab_size + (c.tie_word_embeddings ? 0 : linear(h, c.vocab_size, true));
  const std::int64_t masked_lm = linear(h, h, true) + norm + decoder;
  std::int64_t head = masked_lm;
  if (c.task == Task::pretraining) {
    head = masked_lm + pooler + linear(h, 2, true);
  } else if (c.task == Task::classification) {
    head = pooler + linear(h, c.labels, true);
  }
  return embeddings + c.layers * layer + head;
}

std::int64_t gpt2_parameters(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size;
  const std::int64_t layer = 4 * h + linear(h, 3 * h, true) + linear(h, h, true) +
                             linear(h, c.intermediate_size, true) +
                             linear(c.intermediate_size, h, true);
  return (c.vocab_size + c.max_positions) * h + c.layers * layer + 2 * h +
         (c.tie_word_embeddings ? 0 : c.vocab_size * h);
}

std::int64_t llama_parameters(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size;
  const std::int64_t q = c.heads * c.head_dim;
  const std::int64_t kv = c.key_value_heads * c.head_dim;
  const std::int64_t attention =
      linear(h, q, c.qkv_bias) + 2 * linear(h, kv, c.qkv_bias) + linear(q, h, c.output_bias);
  const std::int64_t feed_forward =
      2 * linear(h, c.intermediate_size, c.mlp_bias) + linear(c.intermediate_size, h, c.mlp_bias);
  const std::int64_t mlp = c.experts == 0 ? feed_forward : c.experts * feed_forward + c.experts * h;
  return c.vocab_size * h * (c.tie_word_embeddings ? 1 : 2) + c.layers * (attention + mlp + 2 * h) +
         h;
}

std::int64_t vit_parameters(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size;
  const std::int64_t embeddings =
      linear(c.channels * c.patch_size * c.patch_size, h, true) + h + c.max_positions * h;
  const std::int64_t layer = 3 * linear(h, h, c.qkv_bias) + linear(h, h, true) +
                             linear(h, c.intermediate_size, true) +
                             linear(c.intermediate_size, h, true) + 4 * h;
  return embeddings + c.layers * layer + 2 * h + linear(h, c.labels, true);
}

std::int64_t t5_parameters(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size;
  const std::int64_t inner = c.heads * c.head_dim;
  const std::int64_t attention = 4 * h * inner + h;  // with its norm
  const std::int64_t feed_forward = (c.gated_mlp ? 3 : 2) * h * c.intermediate_size + h;
  const std::int64_t stacks = c.layers * (attention + feed_forward) +
                              c.decoder_layers * (2 * attention + feed_forward) + 2 * h +
                              2 * c.relative_buckets * c.heads;
  return c.vocab_size * h * (c.tie_word_embeddings ? 1 : 2) + stacks;
}

}  // namespace

std::int64_t parameter_count(const ModelConfig& config) {
  switch (config.family) {
    case Family::bert:
      return bert_parameters(config);
    case Family::gpt2:
      return gpt2_parameters(config);
    case Family::llama:
    case Family::mistral:
    case Family::qwen2:
    case Family::mixtral:
      return llama_parameters(config);
    case Family::vit:
      return vit_parameters(config);
    case Family::t5:
      return t5_parameters(config);
  }
  return 0;
}

}  // namespace peakcast
