#include "sim/core/allocator_event.hpp"

#include <array>

namespace peakcast {
namespace {
constexpr std::array<std::string_view, kActionCount> kNames{
    "alloc",        "free_requested", "free_completed", "segment_alloc",
    "segment_free", "segment_map",    "segment_unmap",  "oom",
    "snapshot"};
}  // namespace

std::string_view to_string(Action action) { return kNames.at(static_cast<std::size_t>(action)); }

std::optional<Action> action_from(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames.at(i) == name) {
      return static_cast<Action>(i);
    }
  }
  return std::nullopt;
}

}  // namespace peakcast
