#pragma once

#include <array>
#include <string_view>

#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// The rows of peak_breakdown, in the contract's order.
struct Part {
  std::string_view name;
  Category category;
};
inline constexpr std::array<Part, 8> kParts{{
    {"parameters", Category::parameter},
    {"gradients", Category::gradient},
    {"optimizer", Category::optimizer},
    {"activations", Category::activation},
    {"temporaries", Category::temporary},
    {"inputs", Category::input},
    {"workspaces", Category::workspace},
    {"communication", Category::communication},
}};

/// Of a part at the allocated peak. What nobody claimed is a temporary.
[[nodiscard]] Bytes part_of(const ReplayReport& report, Category category);

/// {parameters_bytes, ...}.
[[nodiscard]] Json breakdown_json(const ReplayReport& report);

}  // namespace peakcast::app
