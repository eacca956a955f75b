#include "allocators/policy_settings.hpp"

#include <charconv>
#include <vector>

#include "sim/core/nearest.hpp"
#include "sim/core/size_text.hpp"

namespace peakcast {
namespace {

Expected<Ok> read_setting(std::string_view policy, std::string_view entry,
                          std::span<const PolicySetting> settings) {
  const std::size_t colon = entry.find(':');
  const std::string_view key = entry.substr(0, colon);
  const std::string_view value =
      colon == std::string_view::npos ? std::string_view{} : entry.substr(colon + 1);
  std::vector<std::string_view> keys;
  for (const PolicySetting& setting : settings) {
    keys.push_back(setting.key);
    if (setting.key != key) {
      continue;
    }
    const std::string place = std::string{policy} + "'s alloc-conf: " + std::string{key};
    std::int64_t number{};
    if (setting.size != nullptr) {
      const Expected<Bytes> size = parse_size(value);
      if (!size) {
        return invalid_input(place + ": " + size.error().message);
      }
      number = size->count();
    } else {
      const auto [end, fault] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (fault != std::errc{} || end != value.data() + value.size()) {
        return invalid_input(place + " wants a whole number, not '" + std::string{value} + "'");
      }
    }
    if (number < setting.minimum) {
      return invalid_input(place + " must be at least " + std::to_string(setting.minimum));
    }
    if (setting.size != nullptr) {
      *setting.size = Bytes{number};
    } else {
      *setting.count = number;
    }
    return Ok{};
  }
  return invalid_input(std::string{policy} +
                       "'s alloc-conf: " + unknown_word("setting", key, keys));
}

}  // namespace

Expected<Ok> read_settings(std::string_view policy, const PolicyOptions& options,
                           std::span<const PolicySetting> settings) {
  if (!options.version.empty()) {
    return invalid_input("the policy '" + std::string{policy} + "' has no versions");
  }
  std::string_view text = options.alloc_conf;
  if (!text.empty() && settings.empty()) {
    return invalid_input("the policy '" + std::string{policy} +
                         "' has no settings; alloc-conf must be empty");
  }
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    Expected<Ok> read = read_setting(policy, text.substr(0, comma), settings);
    if (!read) {
      return read;
    }
    text = comma == std::string_view::npos ? std::string_view{} : text.substr(comma + 1);
  }
  return Ok{};
}

}  // namespace peakcast
