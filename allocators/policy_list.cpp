#include "allocators/policy_list.hpp"

#include <algorithm>

#include "allocators/plugin/plugin.hpp"

namespace peakcast {

std::vector<PolicyName> policy_list(std::string_view text) {
  std::vector<PolicyName> names;
  std::size_t begin = 0;
  for (std::size_t at = 0; at <= text.size(); ++at) {
    if (at < text.size() && text[at] != ',') {
      continue;
    }
    const std::string_view so_far = text.substr(begin, at - begin);
    const std::string_view next = text.substr(std::min(at + 1, text.size()));
    const std::size_t end = std::min(next.find_first_of(",+"), next.size());
    const bool in_settings = !is_plugin(so_far) && so_far.find('+') != std::string_view::npos;
    const auto count = [&](char c) { return std::count(so_far.begin(), so_far.end(), c); };
    const bool in_brackets = count('[') > count(']');
    const bool is_setting = next.substr(0, end).find(':') != std::string_view::npos &&
                            !is_plugin(next.substr(0, next.find(',')));
    if (at < text.size() && in_settings && (in_brackets || is_setting)) {
      continue;
    }
    names.push_back(PolicyName::parse(so_far));
    begin = at + 1;
  }
  return names;
}

}  // namespace peakcast
