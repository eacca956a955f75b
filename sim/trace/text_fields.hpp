#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace peakcast {

/// Hex digits only, 1 to 16 of them.
[[nodiscard]] inline bool parse_hex(std::string_view word, std::uint64_t& value) {
  if (word.empty() || word.size() > 16) {
    return false;
  }
  std::uint64_t sum = 0;
  for (const char c : word) {
    unsigned digit = static_cast<unsigned char>(c) - unsigned{'0'};
    if (digit > 9) {
      digit = (static_cast<unsigned char>(c) | 0x20U) - unsigned{'a'};
      if (digit > 5) {
        return false;
      }
      digit += 10;
    }
    sum = sum << 4U | digit;
  }
  value = sum;
  return true;
}

/// Digits only, 1 to 18 of them, so that nothing overflows; longer numbers are beyond every limit
/// of ours.
[[nodiscard]] inline bool parse_decimal(std::string_view word, std::int64_t& value) {
  if (word.empty() || word.size() > 18) {
    return false;
  }
  std::int64_t sum = 0;
  for (const char c : word) {
    const unsigned digit = static_cast<unsigned char>(c) - unsigned{'0'};
    if (digit > 9) {
      return false;
    }
    sum = sum * 10 + static_cast<std::int64_t>(digit);
  }
  value = sum;
  return true;
}

/// The word up to the next comma; `rest` moves behind the comma. False when there is no comma.
[[nodiscard]] inline bool take_word(std::string_view& rest, std::string_view& word) {
  const std::size_t comma = rest.find(',');
  if (comma == std::string_view::npos) {
    return false;
  }
  word = rest.substr(0, comma);
  rest.remove_prefix(comma + 1);
  return true;
}

/// A word of an input for a message: quoted, cut after 40 characters, nothing unprintable.
[[nodiscard]] inline std::string quoted(std::string_view word) {
  constexpr std::size_t kShown = 40;
  std::string text = "'";
  for (const char c : word.substr(0, kShown)) {
    text += c >= ' ' && c <= '~' ? c : '?';
  }
  return text + (word.size() > kShown ? "...'" : "'");
}

}  // namespace peakcast
