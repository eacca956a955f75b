#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/device/streams.hpp"

namespace peakcast::support {

/// Streams whose events complete when the test says so, in order within each stream. Event ids are
/// never used again, so that a question about a forgotten one is seen.
class ScriptedStreams final : public Streams {
 public:
  EventId record(StreamId stream) override {
    const EventId id{static_cast<std::uint32_t>(events_.size())};
    events_.push_back(Event{stream.value, of(stream.value).recorded++, false});
    return id;
  }
  bool completed(EventId event) override {
    const Event& e = at(event);
    return e.position < of(e.stream).done;
  }
  void wait(EventId event) override {
    const Event& e = at(event);
    Lane& lane = of(e.stream);
    lane.done = std::max(lane.done, e.position + 1);
  }
  void synchronize(StreamId stream) override { of(stream.value).done = of(stream.value).recorded; }
  void synchronize_device() override {
    for (Lane& lane : lanes_) {
      lane.done = lane.recorded;
    }
  }
  void forget(EventId event) override { at(event).forgotten = true; }

  /// The next `count` events of `stream`, of those recorded so far, complete.
  void complete(StreamId stream, std::uint64_t count) {
    Lane& lane = of(stream.value);
    lane.done = std::min(lane.recorded, lane.done + count);
  }
  /// Events recorded and not yet forgotten.
  [[nodiscard]] std::int64_t outstanding() const {
    return std::count_if(events_.begin(), events_.end(),
                         [](const Event& e) { return !e.forgotten; });
  }

 private:
  struct Event {
    std::uint32_t stream{};
    std::uint64_t position{};
    bool forgotten{};
  };
  struct Lane {
    std::uint64_t recorded{};
    std::uint64_t done{};
  };
  Lane& of(std::uint32_t stream) {
    if (lanes_.size() <= stream) {
      lanes_.resize(stream + 1);
    }
    return lanes_[stream];
  }
  Event& at(EventId event) {
    check(event.value < events_.size() && !events_[event.value].forgotten,
          "a question about an event that is forgotten");
    return events_[event.value];
  }

  std::vector<Event> events_{};
  std::vector<Lane> lanes_{};
};

}  // namespace peakcast::support
