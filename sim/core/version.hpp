#pragma once

#include <string_view>

namespace peakcast {

/// The project's version, as the build file states it: "0.1.0".
[[nodiscard]] std::string_view version();

}  // namespace peakcast
