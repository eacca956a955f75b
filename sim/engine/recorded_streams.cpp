#include "sim/engine/recorded_streams.hpp"

namespace peakcast {

EventId RecordedStreams::record(StreamId /*stream*/) {
  std::uint32_t event = 0;
  if (unused_.empty()) {
    event = static_cast<std::uint32_t>(done_.size());
    done_.push_back(false);
    next_.push_back(kNone);
  } else {
    event = unused_.back();
    unused_.pop_back();
  }
  done_[event] = freeing_ == kNone;
  next_[event] = kNone;
  if (freeing_ != kNone) {
    next_[event] = held_[freeing_];
    held_[freeing_] = event;
  }
  return EventId{event};
}

void RecordedStreams::complete(std::uint32_t buffer) {
  for (std::uint32_t event = held_[buffer]; event != kNone; event = next_[event]) {
    done_[event] = true;
  }
  held_[buffer] = kNone;
}

}  // namespace peakcast
