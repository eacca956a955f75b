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

}  // namespace peakcast
