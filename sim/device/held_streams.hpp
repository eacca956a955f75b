#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/device/streams.hpp"

namespace peakcast {

/// Streams whose work ends when the holder says so: events of all streams complete in the order in
/// which they were recorded. Ids are not used again.
class HeldStreams final : public Streams {
 public:
  EventId record(StreamId /*stream*/) override {
    done_.push_back(false);
    return EventId{static_cast<std::uint32_t>(done_.size() - 1)};
  }
  bool completed(EventId event) override { return done_[event.value]; }
  void wait(EventId event) override { done_[event.value] = true; }
  void synchronize(StreamId /*stream*/) override { complete_all(); }
  void synchronize_device() override { complete_all(); }
  void forget(EventId /*event*/) override {}

  /// The first `count` events, or all that there are.
  void complete(std::size_t count) {
    std::fill_n(done_.begin(), std::min(count, done_.size()), true);
  }
  void complete_all() { complete(done_.size()); }
  [[nodiscard]] std::size_t recorded() const { return done_.size(); }

 private:
  std::vector<bool> done_{};
};

}  // namespace peakcast
