#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "sim/core/error.hpp"

namespace peakcast {

/// The whole of a small text file. Larger than `maximum` bytes, a folder or unreadable: an error.
[[nodiscard]] Expected<std::string> read_text_file(const std::string& path,
                                                   std::size_t maximum = std::size_t{16} << 20);

/// Line and column (from 1) of byte `offset` of `text`.
[[nodiscard]] InputPosition position_in(std::string_view text, std::size_t offset,
                                        const std::string& file);

}  // namespace peakcast
