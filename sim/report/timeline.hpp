#pragma once

#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <string_view>
#include <utility>

#include "sim/core/units.hpp"

namespace peakcast {

/// Writes a timeline that Perfetto and chrome://tracing open: Chrome's trace event format, an
/// object with `traceEvents`. One process (the device), one track per stream and one for the host,
/// memory as counters in bytes, out-of-memory as an instant. Times are microseconds with three
/// decimals, made from integer nanoseconds, so that equal runs give equal bytes.
///
/// Borrows the stream, which outlives it. Slices of one track must nest. O(1) per call, nothing is
/// kept. Source: "Trace Event Format" (Google), sections on complete, counter, instant and metadata
/// events.
class TimelineWriter {
 public:
  /// `name` is shown as the process's name.
  TimelineWriter(std::ostream& out, std::string_view name);
  ~TimelineWriter();
  TimelineWriter(const TimelineWriter&) = delete;
  TimelineWriter& operator=(const TimelineWriter&) = delete;

  /// What follows belongs to process `id` (0 at first).
  void process(std::uint32_t id, std::string_view name);
  /// Names a track; tracks show in the order of their ids.
  void track(std::uint32_t track, std::string_view name);
  void slice(std::uint32_t track, std::string_view name, std::string_view category, SimTime begin,
             SimTime end);
  /// Several series in one counter. Keys end in their unit.
  void counter(std::string_view name, SimTime at,
               std::initializer_list<std::pair<std::string_view, std::int64_t>> series);
  void instant(std::uint32_t track, std::string_view name, SimTime at);
  /// Closes the file's brackets. Nothing may follow. Called by the destructor if need be.
  void finish();

 private:
  void begin_event(char phase, std::string_view name);
  void time(std::string_view key, std::int64_t nanoseconds);
  void text(std::string_view value);
  std::ostream& out_;
  std::uint32_t process_{};
  bool first_{true};
  bool finished_{};
};

}  // namespace peakcast
