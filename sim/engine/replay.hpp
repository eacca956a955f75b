#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/device.hpp"
#include "sim/engine/paced_streams.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/timed_streams.hpp"
#include "sim/report/timeline.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// The first out-of-memory of a run, with its place.
struct OomReport {
  OutOfMemory out_of_memory{};
  std::int64_t op_index{};     ///< into Trace::ops
  std::int64_t iteration{-1};  ///< of the last iteration mark; -1 before the first
  std::string phase{};         ///< of the last phase mark; "" before the first
  std::string op{};            ///< the op's label; "" when there is none
};

/// Levels at the end of an iteration; peaks are since the start of the run.
struct IterationReport {
  Bytes peak_allocated{};
  Bytes peak_reserved{};
  Bytes allocated{};
  Bytes reserved{};
  // Since the start of the run, too.
  DeviceCounts device_calls{};
  SimDuration device_time{};
  std::int64_t program_ops{};
  SimDuration duration{};  ///< host time from this iteration's mark to the next; 0 when untimed
  TimeSplit split{};       ///< of duration
};

/// What one replay gives. Counts only: ratios are made by the reader, from these.
struct ReplayReport {
  Statistics statistics{};
  std::array<Bytes, kCategoryCount> at_peak{};  ///< block bytes by Category at the allocated peak
  std::vector<IterationReport> iterations{};
  std::optional<OomReport> oom{};
  std::int64_t program_ops{};  ///< allocations and frees asked for
  DeviceCounts device_calls{};
  SimDuration device_time{};  ///< host time in driver calls
  Transfers transfers{};      ///< between card and host, of a policy that swaps
  /// Of a recording that began after the program: why the run does not begin with the heap that
  /// was there, but with an empty one and the buffers that were live. nullopt: it begins with it.
  std::optional<std::string> not_resumed{};
  std::optional<std::string> fault{};  ///< what a plug-in did wrong: the rest means nothing
  // Timed runs only.
  SimDuration duration{};         ///< host time from the first op to the end of all work
  TimeSplit split{};              ///< of duration
  SimDuration kernel_time{};      ///< in which kernels ran
  SimDuration collective_time{};  ///< in which collectives ran, whether or not beside kernels
};

/// Lets a replay take time.
struct TimedReplay {
  TimedStreams* streams{};  ///< what allocator and device were made with; borrowed, not null
  /// Host time of one call of the allocator, the driver's calls not counted. Measured: 340 to 560
  /// ns warm (PyTorch 2.11.0 raw_alloc and raw_delete on the H100 machine, recordings' README).
  SimDuration allocator_call{450};
  TimelineWriter* timeline{};  ///< null: none; borrowed
};

/// Hears of a replay as it goes.
class ReplayObserver {
 public:
  virtual ~ReplayObserver() = default;
  /// Op `index` of the trace comes next. `now` is the host's clock, 0 in an untimed replay.
  virtual void begin_op(std::size_t index, SimTime now) = 0;
  /// The allocation that the present op asked for was served.
  virtual void on_placed(const Placement& placement) = 0;
  /// The replay is over; allocator and device are as it left them.
  virtual void on_end() = 0;
};

struct ReplayOptions {
  bool stop_at_oom{};  ///< true: the run ends at the first out-of-memory (a program that dies)
  RecordedStreams* streams{};      ///< what the allocator was made with, for a recording; borrowed
  PacedStreams* pace{};            ///< what the device was made with, for a recording; borrowed
  RecordedAddresses* addresses{};  ///< what the device places by, for a recording; borrowed
  const TimedReplay* timing{};     ///< null: nothing takes time
  ReplayObserver* observer{};      ///< null: none; borrowed
};

/// Runs `trace` through `allocator`, which works on `device`. Both are fresh; a recording that
/// began late begins with the heap of that moment where the allocator can (Allocator::resume()),
/// and what it takes to get there is no event and no peak. Untimed, launches and waits take no time
/// and every event has completed. Timed, the host pays for launches, for its own work and for calls
/// of the allocator and the driver, the streams execute behind it, and the allocator's events
/// complete by that clock. As in PyTorch the run goes on after an out-of-memory (the
/// buffer is then never freed), unless the options say otherwise. O(ops).
/// Precondition: the trace is valid (every free names a live buffer of the trace).
[[nodiscard]] ReplayReport replay(const Trace& trace, Allocator& allocator, Device& device,
                                  const ReplayOptions& options = {});

}  // namespace peakcast
