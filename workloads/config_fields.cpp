#include "workloads/config_fields.hpp"

#include <algorithm>
#include <functional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace peakcast {
namespace {

using Json = nlohmann::json;

std::string shortened(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

}  // namespace

ConfigFields::ConfigFields(const Json& object, std::string file, const ConfigOverrides& overrides)
    : object_{object}, file_{std::move(file)}, overrides_{overrides} {}

void ConfigFields::fail(std::string message) {
  if (!error_) {
    error_ = invalid_input(std::move(message), InputPosition{.file = file_});
  }
}

std::int64_t ConfigFields::size(Names names, std::optional<std::int64_t> fallback,
                                std::int64_t maximum, std::int64_t minimum) {
  const auto found = maybe_size(names, maximum, minimum);
  if (!found && !fallback) {
    fail(fmt::format("field '{}' is missing", *names.begin()));
  }
  return found.value_or(fallback.value_or(minimum));
}

std::optional<std::int64_t> ConfigFields::maybe_size(Names names, std::int64_t maximum,
                                                     std::int64_t minimum) {
  const auto [name, value] = find(names);
  if (value == nullptr || value->is_null()) {
    return std::nullopt;
  }
  return whole(name, *value, maximum, minimum);
}

std::optional<std::int64_t> ConfigFields::nullable_size(std::string_view key, std::int64_t fallback,
                                                        std::int64_t maximum) {
  const auto [name, value] = find({key});
  if (value == nullptr) {
    return fallback > 0 ? std::optional{fallback} : std::nullopt;
  }
  return value->is_null() ? std::nullopt : std::optional{whole(name, *value, maximum, 1)};
}

std::int64_t ConfigFields::scaled(std::string_view key, std::int64_t whole) {
  const auto [name, value] = find({key});
  const Json* found = value;
  for (const char* group : {"rope_parameters", "rope_scaling"}) {
    const auto nested = object_.find(group);
    if (nested != object_.end() && nested->is_object() && nested->contains(std::string{key})) {
      found = &*nested->find(std::string{key});
    }
  }
  if (found == nullptr || found->is_null()) {
    return whole;
  }
  const double share = found->is_number() ? found->get<double>() : 0.0;
  if (!(share > 0.0 && share <= 1.0)) {
    fail(
        fmt::format("field '{}' is {}; it must be above 0 and at most 1", name, shortened(*found)));
    return whole;
  }
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(whole) * share));
}

bool ConfigFields::given(std::string_view key, bool fallback) {
  const auto [name, value] = find({key});
  return value == nullptr ? fallback : !value->is_null();
}

void ConfigFields::layer_types(std::vector<bool>& sliding) {
  const auto [name, value] = find({"layer_types"});
  if (value == nullptr || value->is_null()) {
    return;
  }
  if (!value->is_array() || value->size() < sliding.size()) {
    fail(fmt::format("field '{}' is not a list of a word for each of {} layers", name,
                     sliding.size()));
    return;
  }
  for (std::size_t i = 0; i < sliding.size(); ++i) {
    const Json& word = (*value)[i];
    sliding[i] = word == "sliding_attention";
    if (!sliding[i] && word != "full_attention") {
      fail(fmt::format("field '{}': layer {} is {}; full_attention and sliding_attention are known",
                       name, i, shortened(word)));
    }
  }
}

void ConfigFields::marked_layers(std::string_view key, std::vector<bool>& layers) {
  const auto [name, value] = find({key});
  if (value == nullptr || value->is_null()) {
    return;
  }
  for (const Json& layer : *value) {
    if (!layer.is_number_unsigned()) {
      fail(fmt::format("field '{}' is not a list of layers", name));
      return;
    }
    if (const auto i = layer.get<std::uint64_t>(); i < layers.size()) {
      layers[i] = true;
    }
  }
}

void ConfigFields::zero_layers(std::string_view key, std::vector<bool>& layers) {
  const auto [name, value] = find({key});
  if (value == nullptr || value->is_null()) {
    return;
  }
  if (!value->is_array() || value->size() < layers.size()) {
    fail(fmt::format("field '{}' is not a list of a number for each of {} layers", name,
                     layers.size()));
    return;
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layers[i] = (*value)[i] == 0;
  }
}

std::int64_t ConfigFields::square(std::string_view key, std::int64_t fallback,
                                  std::int64_t maximum) {
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

double ConfigFields::probability(Names names, double fallback) {
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

bool ConfigFields::boolean(Names names, bool fallback) {
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

std::string ConfigFields::text(Names names, std::string fallback) {
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

Activation ConfigFields::activation(std::string_view key, std::string_view fallback) {
  return activation_from(key, text({key}, std::string{fallback}));
}

Activation ConfigFields::activation_from(std::string_view key, const std::string& word) {
  const auto found = peakcast::activation_from(word);
  if (!found) {
    fail(fmt::format("field '{}': {}", key, found.error().message));
    return Activation::gelu;
  }
  return *found;
}

std::optional<Precision> ConfigFields::precision() {
  const std::string word = text({"dtype", "torch_dtype"}, "");
  if (word.empty() || word == "auto") {
    return std::nullopt;
  }
  if (word == "float32") {
    return Precision::fp32;
  }
  if (word == "bfloat16") {
    return Precision::bf16;
  }
  if (word == "float16") {
    return Precision::fp16;
  }
  fail(fmt::format("field 'dtype' is {}; float32, bfloat16 and float16 are supported", word));
  return std::nullopt;
}

std::int64_t ConfigFields::labels() {
  const auto [name, map] = find({"id2label"});
  if (map != nullptr && map->is_object() && !map->empty()) {
    return size({"num_labels"}, static_cast<std::int64_t>(map->size()), kMaxWidth);
  }
  return size({"num_labels"}, 2, kMaxWidth);
}

void ConfigFields::only(std::string_view key, bool supported) { only_json(key, supported); }
void ConfigFields::only(std::string_view key, double supported) { only_json(key, supported); }
void ConfigFields::only(std::string_view key, int supported) { only_json(key, supported); }

void ConfigFields::only_json(std::string_view key, const Json& supported) {
  const auto [name, value] = find({key});
  if (value != nullptr && !value->is_null() && *value != supported) {
    fail(fmt::format("field '{}' is {}; only {} is supported", name, value->dump(),
                     supported.dump()));
  }
}

void ConfigFields::divides(std::string_view part, std::int64_t count, std::string_view whole,
                           std::int64_t size) {
  if (count > 0 && size % count != 0) {
    fail(fmt::format("field '{}' is {}, which does not divide {} ({})", part, count, whole, size));
  }
}

std::pair<std::string_view, const Json*> ConfigFields::find(Names names) {
  known_.insert(known_.end(), names.begin(), names.end());
  const auto overridden = std::find_if(names.begin(), names.end(), [&](std::string_view name) {
    return std::any_of(overrides_.begin(), overrides_.end(),
                       [&](const auto& entry) { return entry.first == name; });
  });
  const auto named = overridden != names.end()
                         ? overridden
                         : std::find_if(names.begin(), names.end(), [&](std::string_view name) {
                             return object_.contains(std::string{name});
                           });
  if (named == names.end()) {
    return {*names.begin(), nullptr};
  }
  return {*named, &*object_.find(std::string{*named})};
}

std::int64_t ConfigFields::whole(std::string_view name, const Json& value, std::int64_t maximum,
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

}  // namespace peakcast
