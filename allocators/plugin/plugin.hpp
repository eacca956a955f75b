#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "allocators/policy.hpp"

namespace peakcast {

/// Whether a policy's name is a path to a shared library: it has a '/' or ends in ".so".
[[nodiscard]] bool is_plugin(std::string_view spec);

/// Loads a policy written against peakcast_policy.h. Errors: no such library, no such symbol,
/// another ABI, a version or settings that it refuses. The library stays loaded as long as the
/// policy. The result is watched: driver calls on what the plug-in does not hold and blocks outside
/// of it are its fault(), and a Referee judges what it hands out.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> load_plugin(const std::string& path,
                                                               Device& device, Streams& streams,
                                                               const PolicyOptions& options);

}  // namespace peakcast
