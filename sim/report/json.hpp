#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "sim/core/units.hpp"

namespace peakcast {

/// Keys keep the order in which they were set: equal results give equal bytes. Sizes are integers
/// under keys that end in `_bytes`, times integers under `_ns`; no timestamps, no host names.
using Json = nlohmann::ordered_json;

/// How every report begins: schema_version, tool, version, command, inputs (the flags in full,
/// defaults included). A command then adds its own keys.
[[nodiscard]] Json report_head(std::string_view command, Json inputs);

/// A key that may be absent in the result: its bytes, or null.
template <class Optional>
[[nodiscard]] Json bytes_or_null(const Optional& size) {
  return size ? Json(size->count()) : Json(nullptr);
}

/// Two spaces of indentation and a final '\n'; bytes that are no UTF-8 are replaced.
[[nodiscard]] std::string json_text(const Json& json);

}  // namespace peakcast
