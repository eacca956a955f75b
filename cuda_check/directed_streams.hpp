#pragma once

#include <vector>

#include "sim/device/streams.hpp"

namespace peakcast {

/// Real streams that answer as a recording did. `directs` says what has completed; before it is
/// believed, `works` (the real streams) is made to have completed it too. So a policy decides what
/// it decided in the simulation, while the device's own order stays the one that is checked: a
/// policy that does not ask gets no wait either.
/// Borrows both; they outlive it.
class DirectedStreams final : public Streams {
 public:
  DirectedStreams(Streams& directs, Streams& works) : directs_{&directs}, works_{&works} {}

  [[nodiscard]] EventId record(StreamId stream) override;
  [[nodiscard]] bool completed(EventId event) override;
  void wait(EventId event) override;
  void stream_wait(StreamId waiter, EventId event) override;
  void synchronize(StreamId stream) override;
  void synchronize_device() override;
  [[nodiscard]] bool in_order() const override { return directs_->in_order(); }
  void forget(EventId event) override;

 private:
  Streams* directs_;
  Streams* works_;
  std::vector<EventId> worked_{};  ///< by the directing event's id: the real one
};

}  // namespace peakcast
