#include "workloads/capture/assumed_values.hpp"

#include <algorithm>
#include <array>

namespace peakcast::capture {
namespace {

constexpr std::int64_t kWhole = 1'000'000;
constexpr std::array<std::string_view, 2> kCounts{"nonzero", "unique"};
constexpr std::array<std::string_view, 2> kTruths{"all", "any"};

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::optional<std::int64_t> share_of(std::string_view text) {
  if (text == "0" || text == "1") {
    return text == "1" ? kWhole : 0;
  }
  constexpr std::size_t kDecimals = 6;
  const std::string_view decimals = text.substr(std::min<std::size_t>(2, text.size()));
  if (!text.starts_with("0.") || !is_number(decimals) || decimals.size() > kDecimals) {
    return std::nullopt;
  }
  std::int64_t share = 0;
  for (std::size_t i = 0; i < kDecimals; ++i) {
    share = share * 10 + (i < decimals.size() ? decimals[i] - '0' : 0);
  }
  return share;
}

Error fault(std::string_view text, const std::string& why) {
  return Error{ErrorCode::invalid_input, "--assume " + std::string{text} + ": " + why,
               std::nullopt};
}

}  // namespace

bool AssumedValue::is_for(std::string_view asked, std::string_view at) const {
  return asked == question &&
         (at == site || (at.ends_with(site) && at[at.size() - site.size() - 1] == '/'));
}

std::int64_t AssumedValue::value(std::int64_t of) const {
  return of / kWhole * share_ppm + of % kWhole * share_ppm / kWhole;
}

Expected<AssumedValue> parse_assumed_value(std::string_view text) {
  const std::size_t at = text.find('@');
  const std::size_t equals = text.rfind('=');
  if (at == std::string_view::npos || equals == std::string_view::npos || equals < at) {
    return fault(text, "is not QUESTION@FILE:LINE=VALUE, as in nonzero@model.py:41=0.3");
  }
  AssumedValue out{.question = std::string{text.substr(0, at)},
                   .site = std::string{text.substr(at + 1, equals - at - 1)}};
  const auto is_one_of = [&out](const auto& names) {
    return std::find(names.begin(), names.end(), out.question) != names.end();
  };
  if (!is_one_of(kCounts) && !is_one_of(kTruths)) {
    return fault(text, "'" + out.question + "' is none of nonzero, unique, all and any");
  }
  const std::size_t colon = out.site.rfind(':');
  if (colon == std::string::npos || colon == 0 ||
      !is_number(std::string_view{out.site}.substr(colon + 1))) {
    return fault(text, "'" + out.site + "' is no FILE:LINE");
  }
  const std::string_view value = text.substr(equals + 1);
  if (is_one_of(kTruths)) {
    if (value != "true" && value != "false") {
      return fault(text, "takes true or false, not '" + std::string{value} + "'");
    }
    out.share_ppm = value == "true" ? kWhole : 0;
    return out;
  }
  const auto share = share_of(value);
  if (!share) {
    return fault(text, "'" + std::string{value} + "' is no share from 0 to 1, as 0.3 is");
  }
  out.share_ppm = *share;
  return out;
}

std::optional<std::int64_t> assumed_value(const std::vector<AssumedValue>& given,
                                          std::string_view question, std::string_view site,
                                          std::int64_t of) {
  const auto found = std::find_if(given.begin(), given.end(), [&](const AssumedValue& value) {
    return value.is_for(question, site);
  });
  return found != given.end() ? std::optional{found->value(of)} : std::nullopt;
}

}  // namespace peakcast::capture
