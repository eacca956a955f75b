#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "allocators/policy.hpp"
#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// One setting of a policy's alloc_conf ("key:value,key:value"): a size, as the command line writes
/// it, or a count.
struct PolicySetting {
  std::string_view key{};
  Bytes* size{};           ///< where a size goes, or null
  std::int64_t* count{};   ///< where a count goes, or null
  std::int64_t minimum{};  ///< of either
};

/// Refuses a version (none of these policies has any) and reads alloc_conf. An unknown key or a bad
/// value is an error that names the policy and the nearest key.
[[nodiscard]] Expected<Ok> read_settings(std::string_view policy, const PolicyOptions& options,
                                         std::span<const PolicySetting> settings);

}  // namespace peakcast
