#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "allocators/policy.hpp"

namespace peakcast {

/// Whether a policy's name is a path to a shared library: it has a '/' or ends in ".so".
[[nodiscard]] bool is_plugin(std::string_view spec);

/// Whether a command's words (the command first) name a plug-in: after --policy, or to `policies`.
[[nodiscard]] bool names_plugin(std::span<const std::string> words);

/// What a plug-in says about itself.
struct PluginDescription {
  std::string name{};
  bool one_heap{};            ///< for all streams
  bool trims{};               ///< it knows trim
  bool follows_iterations{};  ///< it knows begin_iteration
};
/// Errors as of load_plugin().
[[nodiscard]] Expected<PluginDescription> describe_plugin(const std::string& path);

/// Loads a policy written against peakcast_policy.h. Errors: no such library, no such symbol,
/// another ABI, a version or settings that it refuses. The library stays loaded as long as the
/// policy. The result is watched: driver calls on what the plug-in does not hold and blocks outside
/// of it are its fault(), what it throws too, and a Referee judges what it hands out. What else it
/// may do to the process is foreign_process.hpp's.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> load_plugin(const std::string& path,
                                                               Device& device, Streams& streams,
                                                               const PolicyOptions& options);

}  // namespace peakcast
