#pragma once

#include <vector>

#include "sim/device/streams.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Streams of a recording. The recording does not say when work ended, only when the recorded
/// allocator noticed: `complete` ops say so per buffer, and the replay passes it on. An allocator
/// that waits for an event gets it at once. Events recorded while no buffer is being freed have
/// completed.
class RecordedStreams final : public Streams {
 public:
  explicit RecordedStreams(const Trace& trace) : held_(trace.buffer_slots, kNone) {}

  /// Events recorded until end_free() hold `buffer`.
  void begin_free(std::uint32_t buffer) { freeing_ = buffer; }
  void end_free() { freeing_ = kNone; }
  /// What held `buffer` has ended.
  void complete(std::uint32_t buffer);

  [[nodiscard]] EventId record(StreamId stream) override;
  [[nodiscard]] bool completed(EventId event) override { return done_[event.value]; }
  void wait(EventId event) override { done_[event.value] = true; }
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}
  [[nodiscard]] bool in_order() const override { return false; }
  void forget(EventId event) override { unused_.push_back(event.value); }

 private:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  std::vector<bool> done_{};             // by event
  std::vector<std::uint32_t> next_{};    // by event: the next event that holds the same buffer
  std::vector<std::uint32_t> unused_{};  // events
  std::vector<std::uint32_t> held_;      // by buffer: the first event that holds it
  std::uint32_t freeing_{kNone};
};

}  // namespace peakcast
