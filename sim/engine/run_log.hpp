#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sim/core/allocator_event.hpp"
#include "sim/engine/replay.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What a policy did in a replay, entry by entry, and which op of the program each came of. Set it
/// as the allocator's sink and as the replay's observer. Borrows the trace, which outlives it.
class RunLog final : public EventSink, public ReplayObserver {
 public:
  explicit RunLog(const Trace& trace) : trace_{trace} {}

  void begin_op(std::size_t index, SimTime now) override;
  void on_event(const AllocatorEvent& event) override;

  [[nodiscard]] const std::vector<AllocatorEvent>& events() const { return events_; }
  [[nodiscard]] std::vector<AllocatorEvent> take_events() && { return std::move(events_); }
  /// Per entry: the op that it came of.
  [[nodiscard]] const std::vector<std::uint32_t>& ops() const { return ops_; }
  /// Per entry, never falling: the recording's time; of a timed replay the host's; else the work of
  /// the host itself so far, which is what an untimed replay knows of time.
  [[nodiscard]] const std::vector<SimTime>& times() const { return times_; }

 private:
  const Trace& trace_;
  std::vector<AllocatorEvent> events_{};
  std::vector<std::uint32_t> ops_{};
  std::vector<SimTime> times_{};
  std::size_t op_{};
  std::size_t counted_{};  ///< ops before this one are in host_work_
  SimTime now_{};
  SimTime host_work_{};
};

/// What the policy did to `program`, as a recording of its own (see run_snapshot): its entries with
/// times and stacks, the segments of `heap`, which is the policy's at the end, and the program's
/// marks. A generated program's stacks are the operator, the phase and the iteration.
[[nodiscard]] Trace recorded_run(const Trace& program, const RunLog& log, const HeapView& heap,
                                 const std::string& alloc_conf);

}  // namespace peakcast
