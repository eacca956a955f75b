#pragma once

#include "sim/core/units.hpp"

namespace peakcast {

/// What an allocator may ask of streams: events, as cudaEventRecord, cudaEventQuery and
/// cudaEventSynchronize give them. It learns no time. The engine implements this over simulated
/// streams, cuda_check over real ones.
class Streams {
 public:
  virtual ~Streams() = default;
  /// An event at the present end of `stream`'s work.
  [[nodiscard]] virtual EventId record(StreamId stream) = 0;
  /// Whether all work before `event` has ended. The event may be asked again.
  [[nodiscard]] virtual bool completed(EventId event) = 0;
  /// The host waits for `event`.
  virtual void wait(EventId event) = 0;
  /// What `waiter` is given from now on waits on the device for `event`, as cudaStreamWaitEvent
  /// has it; the host goes on. Where that cannot be told, the host waits.
  virtual void stream_wait(StreamId /*waiter*/, EventId event) { wait(event); }
  /// The host waits for all work of `stream`.
  virtual void synchronize(StreamId stream) = 0;
  /// The host waits for the whole device (as cudaFree does implicitly).
  virtual void synchronize_device() = 0;
  /// Whether events of one stream complete in the order in which they were recorded, so that a
  /// poll may stop at the first that has not. Not so in a replay of a recording, which does not
  /// tell which stream held a block.
  [[nodiscard]] virtual bool in_order() const { return true; }
  /// `event` is no longer asked for; its id may be used again.
  virtual void forget(EventId event) = 0;
};

/// Streams that are always idle: every event has completed. For traces without cross-stream use.
class IdleStreams final : public Streams {
 public:
  EventId record(StreamId /*stream*/) override { return EventId{}; }
  bool completed(EventId /*event*/) override { return true; }
  void wait(EventId /*event*/) override {}
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}
  void forget(EventId /*event*/) override {}
};

}  // namespace peakcast
