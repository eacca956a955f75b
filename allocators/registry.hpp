#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "allocators/policy.hpp"

namespace peakcast {

[[nodiscard]] std::span<const PolicyEntry> policies();
/// Null when there is none of that name.
[[nodiscard]] const PolicyEntry* find_policy(std::string_view name);

/// PolicyEntry::needs_time of the policy that is named.
[[nodiscard]] bool needs_time(const PolicyName& name);

/// The policy, or the plug-in (plugin/plugin.hpp), that is named; its settings are added to
/// alloc_conf, its release stands for version. An unknown name is an error that names the nearest
/// valid one.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_policy(const PolicyName& name,
                                                               Device& device, Streams& streams,
                                                               PolicyOptions options);
[[nodiscard]] inline Expected<std::unique_ptr<Allocator>> make_policy(std::string_view name,
                                                                      Device& device,
                                                                      Streams& streams,
                                                                      PolicyOptions options) {
  return make_policy(PolicyName::parse(name), device, streams, std::move(options));
}

}  // namespace peakcast
