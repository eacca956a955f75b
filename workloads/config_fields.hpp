#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "sim/core/error.hpp"
#include "workloads/model_config.hpp"

namespace peakcast {

/// The fields of one config.json as a family's reader asks for them. Keeps the first fault and
/// remembers every key it was asked for; what a faulty field returns is within its bounds.
class ConfigFields {
 public:
  /// Bounds of sanity, far above any model that was ever built: no product of the sizes that a
  /// model makes of them passes 2^62.
  static constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;
  static constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
  static constexpr std::int64_t kMaxLayers = 4096;
  static constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;
  static constexpr std::int64_t kMaxExperts = 4096;

  /// `object` holds the overrides already and outlives this.
  ConfigFields(const nlohmann::json& object, std::string file, const ConfigOverrides& overrides);

  void fail(std::string message);
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] const std::vector<std::string_view>& known() const { return known_; }

  /// The family's own key first, then the names that transformers maps to it. One that --set
  /// overrides wins over the others; else the first that is there.
  using Names = std::initializer_list<std::string_view>;

  /// A whole number in minimum..maximum. Without a fallback the field must be there.
  std::int64_t size(Names names, std::optional<std::int64_t> fallback, std::int64_t maximum,
                    std::int64_t minimum = 1);
  std::optional<std::int64_t> maybe_size(Names names, std::int64_t maximum,
                                         std::int64_t minimum = 1);
  /// The same, but null means none; `fallback` 0 too.
  std::optional<std::int64_t> nullable_size(std::string_view key, std::int64_t fallback,
                                            std::int64_t maximum);
  /// `whole` times a share in (0, 1], rounded down; all of it when there is no such field. Rotary
  /// parameters are looked into as well.
  std::int64_t scaled(std::string_view key, std::int64_t whole);
  /// Whether the field is there and not null; `fallback` when it is not there.
  bool given(std::string_view key, bool fallback);
  /// `layer_types`, where it is there: "sliding_attention" per layer.
  void layer_types(std::vector<bool>& sliding);
  /// A list of layers to be marked; a list of one number per layer, of which zeros are marked.
  void marked_layers(std::string_view key, std::vector<bool>& layers);
  void zero_layers(std::string_view key, std::vector<bool>& layers);
  /// A number, or a list of equal numbers ([224, 224]).
  std::int64_t square(std::string_view key, std::int64_t fallback, std::int64_t maximum);
  /// A dropout probability, in [0, 1).
  double probability(Names names, double fallback);
  bool boolean(Names names, bool fallback);
  std::string text(Names names, std::string fallback);
  Activation activation(std::string_view key, std::string_view fallback);
  /// `word` is what `key` says, in the words of ACT2FN.
  Activation activation_from(std::string_view key, const std::string& word);
  /// `dtype` or `torch_dtype` as a precision; null when neither is named.
  std::optional<Precision> precision();
  /// num_labels, or the number of entries of id2label; transformers' default is 2.
  std::int64_t labels();
  /// What is read by nobody must have the value that the model code assumes.
  void only(std::string_view key, bool supported);
  void only(std::string_view key, double supported);
  void only(std::string_view key, int supported);
  /// `count`, the field `part`, must divide `size`, the field `whole`.
  void divides(std::string_view part, std::int64_t count, std::string_view whole,
               std::int64_t size);

 private:
  void only_json(std::string_view key, const nlohmann::json& supported);
  std::pair<std::string_view, const nlohmann::json*> find(Names names);
  std::int64_t whole(std::string_view name, const nlohmann::json& value, std::int64_t maximum,
                     std::int64_t minimum);
  const nlohmann::json& object_;
  std::string file_;
  const ConfigOverrides& overrides_;
  std::optional<Error> error_{};
  std::vector<std::string_view> known_{};
};

}  // namespace peakcast
