#pragma once

#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// Reads a size as the command line writes it: plain bytes (`1048576`, `512B`), powers of 1024
/// (`24GiB`, `24G`, and the same with K, M, T) or of 1000 (`80GB`, KB, MB, TB). A decimal fraction
/// is allowed (`1.5GiB`) and rounds down to a whole byte; so are a space before the unit and the
/// unit in any case (`24 gb`). Nothing else: no sign, no exponent. An unknown unit is an error that
/// names those that are known; so is a size above 2^63 - 1.
[[nodiscard]] Expected<Bytes> parse_size(std::string_view text);

/// For people: "512 B", "1.50 KiB", "290.00 MiB", "15.24 GiB"; two decimals, half up. A negative
/// difference keeps its sign.
[[nodiscard]] std::string size_text(Bytes size);

}  // namespace peakcast
