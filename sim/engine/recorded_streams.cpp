#include "sim/engine/recorded_streams.hpp"

namespace peakcast {

EventId RecordedStreams::record(StreamId /*stream*/) {
  const std::uint32_t event = events_.take({.done = freeing_ == kNone, .next = kNone});
  if (freeing_ != kNone) {
    events_[event].next = held_[freeing_];
    held_[freeing_] = event;
  }
  return EventId{event};
}

void RecordedStreams::complete(std::uint32_t buffer) {
  for (std::uint32_t event = held_[buffer]; event != kNone; event = events_[event].next) {
    events_[event].done = true;
  }
  held_[buffer] = kNone;
}

}  // namespace peakcast
