#include "sim/trace/trace.hpp"

#include <array>

namespace peakcast {

std::string_view to_string(Category category) {
  static constexpr std::array<std::string_view, kCategoryCount> kNames{
      "unknown",     "parameters", "gradients",  "optimizer",    "activations",
      "temporaries", "inputs",     "workspaces", "communication"};
  return kNames.at(static_cast<std::size_t>(category));
}

}  // namespace peakcast
