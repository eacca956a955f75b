#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"

namespace peakcast::capture {

/// AssumedValues as they were given, one a line.
inline constexpr const char* kAssumedVariable = "PEAKCAST_CAPTURE_ASSUMED";
/// Ends the answers that rest on one.
inline constexpr std::string_view kAsGiven = ", as --assume says";

/// What the user knows better than a rule for dense data.
struct AssumedValue {
  std::string question{};    ///< as the report names it: nonzero, unique, all, any
  std::string site{};        ///< FILE:LINE; FILE may be the end of a path
  std::int64_t share_ppm{};  ///< of what could be; of a truth nothing or all

  [[nodiscard]] bool is_for(std::string_view asked, std::string_view at) const;
  /// Of `of` that could be, rounded down.
  [[nodiscard]] std::int64_t value(std::int64_t of) const;
};

/// `QUESTION@FILE:LINE=VALUE`. VALUE is a share from 0 to 1 with at most six decimals; of all and
/// any true or false.
[[nodiscard]] Expected<AssumedValue> parse_assumed_value(std::string_view text);

/// Of the first of `given` that is for this.
[[nodiscard]] std::optional<std::int64_t> assumed_value(const std::vector<AssumedValue>& given,
                                                        std::string_view question,
                                                        std::string_view site, std::int64_t of);

}  // namespace peakcast::capture
