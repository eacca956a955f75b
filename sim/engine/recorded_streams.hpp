#pragma once

#include <vector>

#include "sim/core/slots.hpp"
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
  [[nodiscard]] bool completed(EventId event) override { return events_[event.value].done; }
  void wait(EventId event) override { events_[event.value].done = true; }
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}
  [[nodiscard]] bool in_order() const override { return false; }
  void forget(EventId event) override { events_.give_back(event.value); }

 private:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  struct Event {
    bool done{};
    std::uint32_t next{};  ///< the next event that holds the same buffer
  };
  Slots<Event> events_{};
  std::vector<std::uint32_t> held_;  // by buffer: the first event that holds it
  std::uint32_t freeing_{kNone};
};

}  // namespace peakcast
