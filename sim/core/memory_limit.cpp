#include "sim/core/memory_limit.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <system_error>

#include "sim/core/size_text.hpp"

namespace peakcast {

Expected<MemoryLimit> MemoryLimit::parse(std::string_view text) {
  constexpr std::string_view kDigits{"0123456789."};
  constexpr double kPercent = 100.0;
  const bool percent = text.ends_with('%');
  const std::string_view number = text.substr(0, text.size() - (percent ? 1 : 0));
  const bool plain = !number.empty() &&
                     number.find_first_not_of(kDigits) == std::string_view::npos &&
                     number.front() != '.' && number.back() != '.';
  if (!plain || (!percent && number.find('.') == std::string_view::npos)) {
    const Expected<Bytes> size = parse_size(text);
    return size ? Expected<MemoryLimit>{MemoryLimit{*size}} : Expected<MemoryLimit>{size.error()};
  }
  double value{};
  const char* const end = number.data() + number.size();
  const auto read = std::from_chars(number.data(), end, value);
  const double fraction = percent ? value / kPercent : value;
  if (read.ec != std::errc{} || read.ptr != end || !(fraction >= 0.0 && fraction <= 1.0)) {
    return invalid_input(
        "'" + std::string{text.substr(0, 64)} +
        "': a part of the card is in 0.0..1.0 or 0%..100%, and a size has a unit, as 24GiB");
  }
  MemoryLimit limit{Bytes{}};
  limit.size_.reset();
  limit.fraction_ = fraction;
  return limit;
}

Bytes MemoryLimit::of(Bytes total) const {
  return size_ ? *size_
               : Bytes{static_cast<std::int64_t>(
                     std::floor(fraction_ * static_cast<double>(total.count())))};
}

std::optional<Bytes> settled(std::optional<MemoryLimit>& limit, Bytes total) {
  if (limit) {
    limit->settle(total);
    return limit->size();
  }
  return std::nullopt;
}

}  // namespace peakcast
