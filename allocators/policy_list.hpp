#pragma once

#include <string_view>
#include <vector>

#include "allocators/policy.hpp"

namespace peakcast {

/// Names with commas between them. A comma is a setting's own, not the list's, in a policy's
/// settings where KEY:VALUE follows, and in brackets:
/// "pytorch,pytorch+max_split_size_mb:200,garbage_collection_threshold:0.8" are two.
[[nodiscard]] std::vector<PolicyName> policy_list(std::string_view text);

}  // namespace peakcast
