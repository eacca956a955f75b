#include "allocators/peakcast/stream_order.hpp"

#include <algorithm>

namespace peakcast::near_floor {
namespace {

/// Events kept per stream. Without the oldest ones a later one is waited for: safe, and that far
/// back the card has long passed both.
constexpr std::size_t kEventsKept = 256;

}  // namespace

StreamOrder::~StreamOrder() {
  for (const Line& line : lines_) {
    for (const Recorded& recorded : line.events) {
      streams_.forget(recorded.event);
    }
  }
}

void StreamOrder::turn(std::uint16_t stream) {
  if (stream >= lines_.size()) {
    lines_.resize(stream + std::size_t{1});
  }
  if (present_ != kSeveral && !several_) {
    several_ = true;  // what the first stream let go so far is stamped with time 0
    lines_[present_].last_use = 1;
    lines_[present_].used_since_event = true;
  }
  for (std::size_t used = 0; used < lines_.size(); ++used) {
    if (lines_[used].used_since_event) {
      record(static_cast<std::uint16_t>(used));
    }
  }
  present_ = stream;
}

void StreamOrder::record(std::uint16_t stream) {
  Line& line = lines_[stream];
  while (!line.events.empty() &&
         (line.events.size() >= kEventsKept || streams_.completed(line.events.front().event))) {
    if (line.events.size() < kEventsKept) {
      line.finished = line.events.front().time + 1;
    }
    streams_.forget(line.events.front().event);
    line.events.pop_front();
  }
  line.events.push_back({clock_, streams_.record(StreamId{stream})});
  line.used_since_event = false;
  ++clock_;
}

void StreamOrder::wait(std::uint16_t waiter, Stamp stamp) {
  const std::uint64_t time = time_of(stamp);
  if (stream_of(stamp) != kSeveral) {
    wait_for(waiter, static_cast<std::uint16_t>(stream_of(stamp)), time);
    return;
  }
  for (std::size_t stream = 0; stream < lines_.size(); ++stream) {
    if (stream != waiter && lines_[stream].last_use > 0) {
      wait_for(waiter, static_cast<std::uint16_t>(stream),
               std::min(time, lines_[stream].last_use - 1));
    }
  }
}

void StreamOrder::wait_for(std::uint16_t waiter, std::uint16_t stream, std::uint64_t time) {
  Line& line = lines_[stream];
  if (time < line.finished) {
    return;
  }
  if (lines_[waiter].waited.size() <= stream) {
    lines_[waiter].waited.resize(lines_.size());
  }
  if (time < lines_[waiter].waited[stream]) {
    return;
  }
  if (line.events.empty() || line.events.back().time < time) {
    record(stream);
  }
  const auto event = std::lower_bound(
      line.events.begin(), line.events.end(), time,
      [](const Recorded& recorded, std::uint64_t at) { return recorded.time < at; });
  lines_[waiter].waited[stream] = event->time + 1;
  streams_.stream_wait(StreamId{waiter}, event->event);
}

}  // namespace peakcast::near_floor
