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

/// What a policy did in a replay, entry by entry, and which op of the program each came of. It is
/// the replay's observer, and the allocator's sink (or hears of everything that its sink does).
/// Borrows the trace, which outlives it.
class RunLog final : public EventSink, public ReplayObserver {
 public:
  explicit RunLog(const Trace& trace) : trace_{trace} {}
  /// Hears of `policy`'s entries and follows its books until the replay's end.
  void follow(Allocator& policy);

  void begin_op(std::size_t index, SimTime now) override;
  void on_placed(const Placement& placement) override;
  void on_end() override;
  void on_event(const AllocatorEvent& event) override;

  [[nodiscard]] const std::vector<AllocatorEvent>& events() const { return events_; }
  [[nodiscard]] std::vector<AllocatorEvent> take_events() && { return std::move(events_); }
  /// Per entry: the op that it came of.
  [[nodiscard]] const std::vector<std::uint32_t>& ops() const { return ops_; }
  /// Per entry, never falling: the recording's time; of a timed replay the host's; else the work of
  /// the host itself so far, which is what an untimed replay knows of time.
  [[nodiscard]] const std::vector<SimTime>& times() const { return times_; }
  /// Per entry: the block's size, of an alloc; of others 0.
  [[nodiscard]] const std::vector<Bytes>& block_sizes() const { return block_sizes_; }

  /// The books after the first `entries` entries, between two ops.
  struct Levels {
    std::size_t entries{};
    std::int64_t allocated{};
    std::int64_t active{};
    std::int64_t reserved{};
  };
  /// Wherever they had changed, in order.
  [[nodiscard]] const std::vector<Levels>& levels() const { return levels_; }

 private:
  void take_books();
  const Trace& trace_;
  const Allocator* books_{};  ///< borrowed until the end of the replay
  std::vector<AllocatorEvent> events_{};
  std::vector<std::uint32_t> ops_{};
  std::vector<SimTime> times_{};
  std::vector<Bytes> block_sizes_{};
  std::vector<Levels> levels_{};
  std::size_t op_{};
  std::size_t counted_{};  ///< ops before this one are in host_work_
  SimTime now_{};
  SimTime host_work_{};
};

/// What a policy did to a program, as a recording of its own.
struct RecordedRun {
  Trace trace{};                        ///< marks, and a recording with times, stacks and segments
  std::vector<std::uint32_t> source{};  ///< per entry of the recording: the log's entry
};

/// What the policy did to `program` (see run_snapshot): its entries with times and stacks, the
/// segments at the end, and the program's marks. A generated program's stacks are the operator, the
/// phase and the iteration.
[[nodiscard]] RecordedRun recorded_run(const Trace& program, const RunLog& log,
                                       const std::string& alloc_conf);

}  // namespace peakcast
