#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace peakcast {

/// How deep any JSON may nest that is read here. Real files stay below ten; a parser that builds a
/// tree of what is nested 30 000 deep takes the stack with it.
inline constexpr std::size_t kDeepestJson = 64;

/// The offset of the bracket that nests deeper than kDeepestJson, if there is one. Looks at
/// brackets outside of strings only; whether the rest is JSON its parser says. O(length).
[[nodiscard]] std::optional<std::size_t> too_deep_json(std::string_view text);

/// Why a text is not read as JSON, and at which of its bytes, from 0.
struct JsonFault {
  std::string_view what{};
  std::size_t byte{};
};

/// `text` into `to`, a nlohmann::basic_json, or why not: then `to` is as it was. O(length).
template <class Json>
[[nodiscard]] std::optional<JsonFault> parse_json(std::string_view text, Json& to) {
  if (const auto deep = too_deep_json(text)) {
    return JsonFault{"nested too deep", *deep};
  }
  try {
    to = Json::parse(text.begin(), text.end());
  } catch (const typename Json::parse_error& error) {
    return JsonFault{"not valid JSON", error.byte == 0 ? 0 : error.byte - 1};
  } catch (const typename Json::out_of_range& error) {
    // "number overflow parsing '1e999'": the parser says which, not where.
    const std::string_view message = error.what();
    const std::size_t begin = message.find('\'') + 1;
    const std::size_t at = text.find(message.substr(begin, message.rfind('\'') - begin));
    return JsonFault{"a number that no double holds", at == std::string_view::npos ? 0 : at};
  }
  return std::nullopt;
}

}  // namespace peakcast
