#pragma once

#include <span>
#include <string>
#include <string_view>

namespace peakcast {

/// A repository on the Hugging Face hub whose config.json has a built-in model's sizes.
struct HubName {
  std::string_view id;  ///< "meta-llama/Llama-3.1-8B"
  std::string_view builtin;
};
[[nodiscard]] std::span<const HubName> hub_names();

/// The built-in model that `word` means, or "": its name in any case and with '_' or ' ' for '-', a
/// repository of hub_names(), or the part of one behind the '/'.
[[nodiscard]] std::string_view builtin_model(std::string_view word);

/// What `--model WORD` is refused with when it is neither built in nor a file: the nearest name, or
/// the built-in models of that family, or that it is not modelled.
[[nodiscard]] std::string unknown_model(std::string_view word);

}  // namespace peakcast
