#pragma once

#include <vector>

#include "sim/device/streams.hpp"

namespace peakcast::testing {

/// Streams whose work ends when the test says so: events of all streams complete in the order in
/// which they were recorded, up to the one that complete_until() names.
class ManualStreams final : public Streams {
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

  void complete_all() { done_.assign(done_.size(), true); }
  [[nodiscard]] std::size_t recorded() const { return done_.size(); }

 private:
  std::vector<bool> done_{};
};

}  // namespace peakcast::testing
