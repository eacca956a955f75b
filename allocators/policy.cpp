#include "allocators/policy.hpp"

#include <algorithm>

#include "allocators/plugin/plugin.hpp"

namespace peakcast {

PolicyName PolicyName::parse(std::string_view text) {
  if (is_plugin(text)) {
    return {.base = std::string{text}};
  }
  PolicyName name;
  const std::size_t plus = text.find('+');
  if (plus != std::string_view::npos) {
    name.settings = text.substr(plus + 1);
    std::replace(name.settings.begin(), name.settings.end(), '+', ',');
    text = text.substr(0, plus);
  }
  const std::size_t at = text.find('@');
  name.base = text.substr(0, at);
  if (at != std::string_view::npos) {
    name.release = text.substr(at + 1);
  }
  return name;
}

std::string PolicyName::text() const {
  std::string text = base;
  text += release.empty() ? "" : "@" + release;
  std::string added = settings.empty() ? "" : "+" + settings;
  int depth = 0;  // a list's commas stay
  for (char& c : added) {
    depth += c == '[' ? 1 : c == ']' ? -1 : 0;
    c = c == ',' && depth == 0 ? '+' : c;
  }
  return text + added;
}

}  // namespace peakcast
