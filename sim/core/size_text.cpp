#include "sim/core/size_text.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "sim/core/nearest.hpp"

namespace peakcast {
namespace {

// 128 bits: the largest mantissa that is accepted (below) times the largest unit stays inside.
__extension__ using Wide = unsigned __int128;

struct Unit {
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array<Unit, 14> kUnits{{{"", 1},
                                       {"B", 1},
                                       {"K", std::int64_t{1} << 10},
                                       {"KiB", std::int64_t{1} << 10},
                                       {"KB", 1'000},
                                       {"M", std::int64_t{1} << 20},
                                       {"MiB", std::int64_t{1} << 20},
                                       {"MB", 1'000'000},
                                       {"G", std::int64_t{1} << 30},
                                       {"GiB", std::int64_t{1} << 30},
                                       {"GB", 1'000'000'000},
                                       {"T", std::int64_t{1} << 40},
                                       {"TiB", std::int64_t{1} << 40},
                                       {"TB", 1'000'000'000'000}}};

Error bad_size(std::string_view text, std::string_view why) {
  std::string message = "bad size '";
  message.append(text.substr(0, 64)).append("': ").append(why);
  return invalid_input(std::move(message));
}

}  // namespace

Expected<Bytes> parse_size(std::string_view text) {
  constexpr Wide kLimit = Wide{1} << 63;
  Wide digits = 0;  // the number without its point
  Wide scale = 1;   // 10^(digits after the point)
  std::size_t at = 0;
  bool any = false;
  bool fraction = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '.' && !fraction && any) {
      fraction = true;
      continue;
    }
    if (c < '0' || c > '9') {
      break;
    }
    any = true;
    if (fraction && scale == 1'000'000'000'000) {
      return bad_size(text, "more than 12 decimals");
    }
    digits = digits * 10 + static_cast<Wide>(c - '0');
    scale *= fraction ? 10 : 1;
    if (digits / scale >= kLimit) {
      return bad_size(text, "it is too large");
    }
  }
  if (!any) {
    return bad_size(text, "a number like 1048576, 24GiB, 24G or 80GB is needed");
  }
  if (text[at - 1] == '.') {
    return bad_size(text, "digits are missing after the point");
  }
  std::string_view unit = text.substr(at);
  if (unit.starts_with(' ') && unit.size() > 1) {
    unit.remove_prefix(1);
  }
  for (const Unit& known : kUnits) {
    if (plain_word(known.name) == plain_word(unit)) {
      // The whole part is below 2^63 and the fraction below 10^12, so the product fits 128 bits.
      const Wide whole = digits / scale * static_cast<Wide>(known.bytes);
      const Wide rest = digits % scale * static_cast<Wide>(known.bytes) / scale;
      if (whole + rest >= kLimit) {
        return bad_size(text, "it is too large");
      }
      return Bytes{static_cast<std::int64_t>(whole + rest)};
    }
  }
  std::array<std::string_view, kUnits.size() - 1> names{};
  for (std::size_t i = 1; i < kUnits.size(); ++i) {
    names.at(i - 1) = kUnits.at(i).name;
  }
  return bad_size(text, unknown_word("unit", unit, names));
}

std::string size_text(Bytes size) {
  const bool negative = size.count() < 0;
  const auto magnitude = negative ? ~static_cast<std::uint64_t>(size.count()) + 1
                                  : static_cast<std::uint64_t>(size.count());
  std::string text = negative ? "-" : "";
  if (magnitude < 1024) {
    return text + std::to_string(magnitude) + " B";
  }
  constexpr std::array<std::string_view, 3> kNames{" KiB", " MiB", " GiB"};
  std::size_t unit = 0;
  unsigned shift = 10;
  // The larger unit begins where the smaller one would print 1024.00.
  const auto hundredths = [&] {
    return (Wide{magnitude} * 100 + (Wide{1} << (shift - 1))) >> shift;
  };
  while (unit + 1 < kNames.size() && hundredths() >= 102'400) {
    ++unit;
    shift += 10;
  }
  const auto value = static_cast<std::uint64_t>(hundredths());
  text += std::to_string(value / 100) + ".";
  text += static_cast<char>('0' + value / 10 % 10);
  text += static_cast<char>('0' + value % 10);
  return text.append(kNames.at(unit));
}

}  // namespace peakcast
