#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "sim/core/units.hpp"

namespace peakcast {

/// What an allocator did, in PyTorch's words (section "trace entries" of its snapshot format).
enum class Action : std::uint8_t {
  alloc,           ///< a block was handed out; size is the request, unrounded
  free_requested,  ///< the program dropped it; size is the request
  free_completed,  ///< it may be reused; size is the request
  segment_alloc,   ///< device memory gained
  segment_free,    ///< device memory returned
  segment_map,     ///< pages mapped in an expandable segment; address of the new range
  segment_unmap,   ///< pages unmapped
  oom,       ///< a request failed; size is the rounded request, address the device's free bytes
  snapshot,  ///< a dump was taken; size is the active bytes
};
inline constexpr int kActionCount = 9;

[[nodiscard]] std::string_view to_string(Action action);
[[nodiscard]] std::optional<Action> action_from(std::string_view name);

/// One entry of an allocator's own log.
struct AllocatorEvent {
  Address address{};
  Bytes size{};
  StreamId stream{};
  Action action{};
  friend constexpr bool operator==(const AllocatorEvent&, const AllocatorEvent&) = default;
};

/// Receives what a policy does, in order.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_event(const AllocatorEvent& event) = 0;
};

}  // namespace peakcast
