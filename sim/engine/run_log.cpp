#include "sim/engine/run_log.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <utility>

#include "sim/report/run_snapshot.hpp"

namespace peakcast {

void RunLog::begin_op(std::size_t index, SimTime now) {
  take_books();
  op_ = index;
  if (!trace_.times_us.empty()) {
    constexpr std::int64_t kNanoseconds = 1000;
    now = SimTime{SimDuration{trace_.times_us[index] * kNanoseconds}};
  } else if (now == SimTime{}) {
    for (; counted_ < index; ++counted_) {
      const Op& op = trace_.ops[counted_];
      host_work_ += SimDuration{op.kind == OpKind::host_work ? op.value : 0};
    }
    now = host_work_;
  }
  now_ = std::max(now_, now);
}

void RunLog::follow(Allocator& policy) {
  books_ = &policy;
  policy.set_sink(this);
}

void RunLog::on_end() {
  take_books();
  books_ = nullptr;
}

void RunLog::on_placed(const Placement& placement) {
  if (!events_.empty()) {
    // The alloc is the last entry, but for what a policy says of its memory behind it.
    for (std::size_t i = events_.size(); i-- > 0 && ops_[i] == op_;) {
      if (events_[i].action == Action::alloc) {
        block_sizes_[i] = placement.size;
        return;
      }
    }
  }
}

void RunLog::take_books() {
  if (books_ == nullptr) {
    return;
  }
  const Statistics& now = books_->statistics();
  if (levels_.empty() || levels_.back().allocated != now.allocated.current ||
      levels_.back().active != now.active.current ||
      levels_.back().reserved != now.reserved.current) {
    levels_.push_back(
        {events_.size(), now.allocated.current, now.active.current, now.reserved.current});
  }
}

void RunLog::on_event(const AllocatorEvent& event) {
  events_.push_back(event);
  ops_.push_back(static_cast<std::uint32_t>(op_));
  times_.push_back(now_);
  block_sizes_.emplace_back();
}

namespace {

/// Microseconds, as recordings have them.
std::int64_t microseconds(SimTime time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

/// Labels of a generated program: what its marks say stands behind the operator, as a caller would.
class Stacks {
 public:
  explicit Stacks(const Trace& program) : program_{program}, strings_{program.strings} {}

  /// Ops are asked for in ascending order.
  [[nodiscard]] std::uint32_t at(std::size_t op) {
    for (; next_ <= op; ++next_) {
      const Op& mark = program_.ops[next_];
      if (mark.kind == OpKind::mark && mark_kind_of(mark) == MarkKind::iteration) {
        iteration_ = mark.id + 1;
        phase_ = 0;
      } else if (mark.kind == OpKind::mark && mark_kind_of(mark) == MarkKind::phase) {
        phase_ = mark.id + 1;
      }
    }
    const std::uint32_t label = program_.labels.empty() ? 0 : program_.labels[op];
    if (program_.recording) {
      return label;
    }
    const auto [known, fresh] = index_.try_emplace({label, phase_, iteration_}, 0);
    if (fresh) {
      std::string text;
      for (const std::uint32_t part : {label, phase_, iteration_}) {
        if (part != 0) {
          text.append(text.empty() ? "" : " < ").append(program_.strings[part - 1]);
        }
      }
      if (!text.empty()) {
        strings_.push_back(std::move(text));
        known->second = static_cast<std::uint32_t>(strings_.size());
      }
    }
    return known->second;
  }
  [[nodiscard]] std::vector<std::string> take() { return std::move(strings_); }

 private:
  const Trace& program_;
  std::vector<std::string> strings_;
  std::map<std::array<std::uint32_t, 3>, std::uint32_t> index_{};
  std::size_t next_{};
  std::uint32_t phase_{};      ///< a string's index + 1, 0 for none
  std::uint32_t iteration_{};  ///< the same
};

}  // namespace

RecordedRun recorded_run(const Trace& program, const RunLog& log, const std::string& alloc_conf) {
  Recording entries;
  entries.alloc_conf = alloc_conf;
  entries.head_lost = program.recording && program.recording->head_lost;
  entries.events = log.events();
  Stacks stacks{program};
  for (std::size_t i = 0; i < entries.events.size(); ++i) {
    entries.labels.push_back(stacks.at(log.ops()[i]));
    entries.times_us.push_back(microseconds(log.times()[i]));
  }
  RecordedRun run;
  run.trace.source = program.source;
  run.trace.streams = program.streams;
  for (std::size_t i = 0, entry = 0; i < program.ops.size(); ++i) {
    while (entry < log.ops().size() && log.ops()[entry] < i) {
      ++entry;
    }
    if (program.ops[i].kind == OpKind::mark && entry < entries.times_us.size()) {
      run.trace.ops.push_back(program.ops[i]);
      run.trace.times_us.push_back(entries.times_us[entry]);
    }
  }
  run.trace.strings = stacks.take();
  RunSnapshot snapshot = run_snapshot(entries, log.block_sizes());
  run.trace.recording = std::move(snapshot.recording);
  run.source = std::move(snapshot.source);
  return run;
}

}  // namespace peakcast
