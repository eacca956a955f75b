#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "sim/device/address_source.hpp"
#include "sim/device/streams.hpp"
#include "sim/engine/paced_streams.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/replay.hpp"
#include "sim/engine/timed_streams.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// The streams that a trace read from a file is replayed with. A recording says when a held buffer
/// came back (and for a policy that needs time, how far the card was); a generated program says
/// what its streams do, so its clock runs; a program on one stream needs neither, unless the policy
/// needs time. Outlives the allocator, the device and the replay; not copied.
class TraceStreams {
 public:
  TraceStreams(const Trace& trace, bool needs_time)
      : recorded_{trace.recording && !has_work(trace) ? std::optional<RecordedStreams>{trace}
                                                      : std::nullopt},
        pace_{recorded_ && needs_time ? std::optional<PacedStreams>{trace} : std::nullopt},
        timed_{!recorded_ && (trace.streams.size() > 1 || needs_time)},
        clock_{{.streams = static_cast<std::uint32_t>(trace.streams.size())}} {}
  TraceStreams(const TraceStreams&) = delete;
  TraceStreams& operator=(const TraceStreams&) = delete;

  /// For the allocator.
  [[nodiscard]] Streams& streams() {
    return recorded_ ? static_cast<Streams&>(*recorded_)
           : timed_  ? static_cast<Streams&>(clock_)
                     : static_cast<Streams&>(idle_);
  }
  /// For SimulatedDeviceOptions::streams: what cudaFree and the driver's pool wait for.
  [[nodiscard]] Streams* device_streams() {
    return timed_ ? static_cast<Streams*>(&clock_) : pace_ ? &*pace_ : nullptr;
  }
  [[nodiscard]] ReplayOptions options(RecordedAddresses* addresses) {
    return {.streams = recorded_ ? &*recorded_ : nullptr,
            .pace = pace_ ? &*pace_ : nullptr,
            .addresses = addresses,
            .timing = timed_ ? &timing_ : nullptr};
  }

 private:
  /// A capture has both: what the allocator did, and what the card's streams do.
  static bool has_work(const Trace& trace) {
    return std::any_of(trace.ops.begin(), trace.ops.end(), [](const Op& op) {
      return op.kind == OpKind::launch || op.kind == OpKind::collective;
    });
  }

  std::optional<RecordedStreams> recorded_;
  std::optional<PacedStreams> pace_;
  bool timed_;
  TimedStreams clock_;
  IdleStreams idle_{};
  TimedReplay timing_{.streams = &clock_};
};

}  // namespace peakcast::app
