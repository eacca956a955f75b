#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "workloads/model_config.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast {

class ConfigFields;
namespace models {
class LanguageModel;
struct DecoderTraits;
}  // namespace models

/// A head of a family: what `architectures` calls it and what it is for.
struct Head {
  std::string_view architecture{};
  Task task{};
};

/// What bounds a sequence's length.
enum class Positions : std::uint8_t {
  advised,   ///< computed for any length; the config says what it was made for
  relative,  ///< between tokens: no position has a number
  table,     ///< rows of a learned table
  image,     ///< the image's patches: always as many
};

/// All that is known of one kind of model, by its modelling code (`model_type`). A family is one
/// file in models/, which defines this row, and its place in models/families.cpp.
struct Family {
  std::string_view name{};        ///< as `model_type` spells it
  std::span<const Head> heads{};  ///< the first is what a config without `architectures` means
  /// Fills in the family's fields and checks them; `config.family` is set.
  void (*read)(ConfigFields& fields, ModelConfig& config){};
  /// The model on the host. Precondition: inside a RuntimeScope.
  std::unique_ptr<models::LanguageModel> (*make)(const ModelConfig& config, Attention attention){};
  Positions positions{};
  std::string_view positions_key{};        ///< the field that says how many rows a table has
  bool writes_scores{};                    ///< its attention has all scores in memory, sdpa or not
  bool eager_only{};                       ///< has no sdpa attention
  const models::DecoderTraits* decoder{};  ///< a row of the decoder's description, or null
};

/// In name order.
[[nodiscard]] std::span<const Family* const> families();

}  // namespace peakcast
