#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sim/alloc/allocator.hpp"
#include "sim/core/error.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {

/// How a policy is set up. All policies take the same; what one has no use for it refuses when it
/// is set (an alloc_conf for a policy without settings is an error that names the policy).
struct PolicyOptions {
  std::string version{};         ///< after '@' in the policy's name: `pytorch@2.6`; "" = newest
  std::string alloc_conf{};      ///< settings string; "" = defaults
  std::optional<Bytes> limit{};  ///< the allocator's own limit (set_per_process_memory_fraction)
};

/// One row per policy, in name order, in one visible table: nothing registers itself at start-up.
struct PolicyEntry {
  std::string_view name;
  std::string_view summary;  ///< one line
  std::string_view options;  ///< what version and alloc_conf may say; "" = nothing
  std::string_view source;   ///< what it was written from
  Expected<std::unique_ptr<Allocator>> (*make)(Device&, Streams&, const PolicyOptions&);
  bool needs_time{};  ///< what it reserves depends on when the device gets where, on one stream too
};

/// What --policy says: "base[@release][+key:value...]", or the path of a plug-in, which is all
/// base.
struct PolicyName {
  std::string base{};
  std::string release{};   ///< "2.6"; "" = none said
  std::string settings{};  ///< "key:value,key:value": '+' stands for their comma

  /// Any text is a name; whether there is such a policy find_policy() says.
  [[nodiscard]] static PolicyName parse(std::string_view text);
  /// As it was written.
  [[nodiscard]] std::string text() const;
  [[nodiscard]] bool is_pytorch() const { return base == "pytorch"; }
};

}  // namespace peakcast
