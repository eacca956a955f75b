#pragma once

#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/trace/document.hpp"

namespace peakcast {

/// A JSON file as a Document. Nesting beyond 64 levels is refused, and so is what would take more
/// than `most` of memory. O(bytes).
[[nodiscard]] Expected<Document> read_json_document(std::string_view bytes, const std::string& name,
                                                    Bytes most);

}  // namespace peakcast
