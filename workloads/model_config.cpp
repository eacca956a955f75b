#include "workloads/model_config.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/core/embedded.hpp"
#include "sim/core/json_nesting.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/text_file.hpp"
#include "workloads/config_fields.hpp"
#include "workloads/family.hpp"
#include "workloads/model_names.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<std::string_view, Task>, 8> kTasks{{
    {"mlm", Task::mlm},
    {"pretraining", Task::pretraining},
    {"classification", Task::classification},
    {"causal-lm", Task::causal_lm},
    {"image-classification", Task::image_classification},
    {"seq2seq", Task::seq2seq},
    {"token-classification", Task::token_classification},
    {"question-answering", Task::question_answering},
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
constexpr std::array kNeutralKeys =
    std::to_array<std::string_view>({"_name_or_path",
                                     "attention_multiplier",
                                     "bos_token_id",
                                     "cache_implementation",
                                     "cls_token_id",
                                     "decoder_start_token_id",
                                     "directionality",
                                     "embd_pdrop",
                                     "embed_pdrop",
                                     "embedding_multiplier",
                                     "encoder_stride",
                                     "eos_token_id",
                                     "gradient_checkpointing",
                                     "initializer_factor",
                                     "initializer_range",
                                     "label2id",
                                     "layer_norm_eps",
                                     "layer_norm_epsilon",
                                     "layer_types",
                                     "logits_scaling",
                                     "max_window_layers",
                                     "n_ctx",
                                     "norm_eps",
                                     "num_nextn_predict_layers",
                                     "original_max_position_embeddings",
                                     "output_past",
                                     "partial_rotary_factor",
                                     "pooler_act",
                                     "pooler_output_size",
                                     "position_embedding_type",
                                     "pretraining_tp",
                                     "problem_type",
                                     "query_pre_attn_scalar",
                                     "relative_attention_max_distance",
                                     "residual_multiplier",
                                     "rms_norm_eps",
                                     "rope_local_base_freq",
                                     "rope_parameters",
                                     "rope_scaling",
                                     "rope_theta",
                                     "routed_scaling_factor",
                                     "router_aux_loss_coef",
                                     "scale_attn_by_inverse_layer_idx",
                                     "scale_attn_weights",
                                     "sep_token_id",
                                     "summary_activation",
                                     "summary_first_dropout",
                                     "summary_proj_to_labels",
                                     "summary_type",
                                     "summary_use_proj",
                                     "swiglu_limit",
                                     "task_specific_params",
                                     "transformers_version"});

void read_task(ConfigFields& fields, const Json& object, std::string_view asked,
               ModelConfig& config) {
  std::vector<std::string_view> possible;
  for (const Head& head : config.family->heads) {
    possible.push_back(to_string(head.task));
  }
  if (!asked.empty()) {
    const auto task = task_from(asked);
    if (!task) {
      fields.fail(task.error().message);
      return;
    }
    if (std::find(possible.begin(), possible.end(), asked) == possible.end()) {
      fields.fail(fmt::format("task '{}' is not one of {}'s ({})", asked, config.family->name,
                              fmt::join(possible, ", ")));
    }
    config.task = *task;
    return;
  }
  const auto architectures = object.find("architectures");
  if (architectures == object.end() || architectures->is_null() ||
      (architectures->is_array() && architectures->empty())) {
    config.task = config.family->heads.front().task;
    return;
  }
  if (!architectures->is_array() || !architectures->front().is_string()) {
    fields.fail("field 'architectures' is not a list of strings");
    return;
  }
  const std::string name = architectures->front().get<std::string>();
  std::vector<std::string_view> names;
  for (const Head& head : config.family->heads) {
    names.push_back(head.architecture);
    if (head.architecture == name) {
      config.task = head.task;
      return;
    }
  }
  fields.fail(fmt::format("field 'architectures': {}; or choose a task ({})",
                          unknown_word("architecture", name, names), fmt::join(possible, ", ")));
}

Expected<Json> parse_object(std::string_view text, const std::string& file) {
  Json object;
  if (const auto fault = parse_json(text, object)) {
    return invalid_input(std::string{fault->what}, position_in(text, fault->byte, file));
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
    if (too_deep_json(text)) {
      return invalid_input("the value of '" + key + "' is nested too deep");
    }
    Json value = Json::parse(text, nullptr, false);
    object[key] = value.is_discarded() ? Json(text) : std::move(value);
  }
  return Ok{};
}

Expected<const Family*> family_of(ConfigFields& fields, const std::string& file) {
  const std::string model_type = fields.text({"model_type"}, "");
  if (fields.error()) {
    return *fields.error();
  }
  if (model_type.empty()) {
    return invalid_input("field 'model_type' is missing", InputPosition{.file = file});
  }
  std::vector<std::string_view> names;
  for (const Family* family : families()) {
    if (family->name == model_type) {
      return family;
    }
    names.push_back(family->name);
  }
  return Error{ErrorCode::unsupported,
               fmt::format("field 'model_type': {} (supported: {})",
                           near(model_type, names).empty()
                               ? fmt::format("architecture '{}' is not modelled", model_type)
                               : unknown_word("architecture", model_type, names),
                           fmt::join(names, ", ")),
               InputPosition{.file = file}};
}

}  // namespace

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

Expected<Activation> activation_from(std::string_view word) {
  for (const auto& [name, activation] : kActivations) {
    if (name == word) {
      return activation;
    }
  }
  return invalid_input(unknown_word("activation", word, words_of(kActivations)));
}

Expected<ModelConfig> parse_model_config(std::string_view json, const std::string& file,
                                         const ConfigOverrides& overrides, std::string_view task) {
  auto parsed = parse_object(json, file);
  if (!parsed) {
    return parsed.error();
  }
  Json& object = *parsed;
  if (const auto done = apply(overrides, object); !done) {
    return done.error();
  }

  ConfigFields fields{object, file, overrides};
  ModelConfig config;
  config.name = file;
  const auto family = family_of(fields, file);
  if (!family) {
    return family.error();
  }
  config.family = *family;
  if (object.contains("quantization_config") && !object["quantization_config"].is_null()) {
    fields.fail("field 'quantization_config': quantised models are not supported");
  }
  config.family->read(fields, config);
  if (config.head_dim == 0) {
    config.head_dim = std::max<std::int64_t>(1, config.hidden_size / config.heads);
  }
  if (config.key_value_heads == 0) {
    config.key_value_heads = config.heads;
  }
  if (config.heads * config.head_dim > ConfigFields::kMaxWidth) {
    fields.fail(fmt::format("heads times head size is {}, more than {}",
                            config.heads * config.head_dim, ConfigFields::kMaxWidth));
  }
  config.precision = fields.precision();
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

Expected<std::string> config_text(const std::string& model) {
  if (model.starts_with('{')) {
    return model;
  }
  const auto builtins = embedded_model_configs();
  const auto found = std::find_if(builtins.begin(), builtins.end(),
                                  [&](const EmbeddedFile& entry) { return entry.name == model; });
  if (found != builtins.end()) {
    return std::string{found->text};
  }
  std::error_code error;
  std::filesystem::path path{model};
  if (std::filesystem::is_directory(path, error)) {
    path /= "config.json";  // as a downloaded checkpoint has it
  }
  if (!std::filesystem::exists(path, error)) {
    if (const std::string_view meant = builtin_model(model); !meant.empty()) {
      return config_text(std::string{meant});
    }
    // What begins like a path or ends like a file is one; "owner/name" may be the hub's.
    const bool is_path = model.find_first_of("./~") == 0 || model.ends_with(".json") ||
                         std::count(model.begin(), model.end(), '/') > 1;
    if (!is_path) {
      return invalid_input(unknown_model(model));
    }
  }
  return read_text_file(path.string());
}

Expected<ModelConfig> load_model_config(const std::string& model, const ConfigOverrides& overrides,
                                        std::string_view task) {
  const auto text = config_text(model);
  if (!text) {
    return text.error();
  }
  const bool is_text = model.starts_with('{');
  return parse_model_config(*text, is_text ? "config" : model, overrides, task);
}

std::int64_t parameter_count(const ModelConfig& config) {
  Trace unused;
  torch::Runtime runtime{unused, {}};
  const torch::RuntimeScope scope{runtime};
  const auto model = config.family->make(config, Attention{});
  std::int64_t elements = 0;
  for (const torch::Tensor& parameter : model->parameters()) {
    elements += parameter.numel();
  }
  return elements;
}

}  // namespace peakcast
