#include "sim/engine/waste.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "sim/alloc/allocator_decorator.hpp"

namespace peakcast {
namespace {

/// Counts the allocations that pass through it. The n-th is the trace's n-th allocate op: a replay
/// asks once for each, whatever comes of it.
class Watch : public AllocatorDecorator, public EventSink {
 public:
  explicit Watch(Allocator& policy) : AllocatorDecorator{policy} { policy.set_sink(this); }

  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override {
    before(request);
    AllocOutcome outcome = inner().allocate(request);
    after(request, outcome);
    ++call_;
    return outcome;
  }

 protected:
  virtual void before(const AllocRequest& /*request*/) {}
  virtual void after(const AllocRequest& /*request*/, const AllocOutcome& /*outcome*/) {}
  void on_event(const AllocatorEvent& /*event*/) override {}
  [[nodiscard]] std::int64_t call() const { return call_; }

 private:
  std::int64_t call_{};
};

/// Which allocation raises reserved to its peak.
class PeakFinder final : public Watch {
 public:
  using Watch::Watch;
  [[nodiscard]] std::optional<std::int64_t> peak_call() const { return peak_call_; }

 private:
  void after(const AllocRequest& /*request*/, const AllocOutcome& /*outcome*/) override {
    const std::int64_t reserved = statistics().reserved.current;
    if (reserved > peak_) {
      peak_ = reserved;
      peak_call_ = call();
    }
  }

  std::int64_t peak_{};
  std::optional<std::int64_t> peak_call_{};
};

struct Growth {
  std::int64_t call{};
  Bytes size{};
};

/// The heap at one allocation, and which allocations its blocks and segments came from.
class PeakView final : public Watch {
 public:
  PeakView(Allocator& policy, std::int64_t peak_call) : Watch{policy}, peak_call_{peak_call} {}

  HeapView heap{};
  Statistics books{};
  AllocRequest request{};
  std::map<Address, std::int64_t> call_of_block{};  // those that were not dropped, and dropped ones
  std::map<Address, Growth> growths{};              // by the address of what was gained

 private:
  void after(const AllocRequest& asked, const AllocOutcome& outcome) override {
    if (done_) {
      return;
    }
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
      call_of_block[placement->address] = call();
    }
    if (call() == peak_call_) {
      heap = view();
      books = statistics();
      request = asked;
      done_ = true;
    }
  }
  void on_event(const AllocatorEvent& event) override {
    if (done_) {
      return;
    }
    if (event.action == Action::segment_alloc || event.action == Action::segment_map) {
      growths[event.address] = {call(), event.size};
    } else if (event.action == Action::segment_free || event.action == Action::segment_unmap) {
      growths.erase(growths.lower_bound(event.address),
                    growths.lower_bound(event.address + event.size));
    }
  }

  std::int64_t peak_call_;
  bool done_{};
};

struct FreeThen {
  Bytes request{};
  Bytes all{};
  std::array<std::array<Bytes, 2>, 2> largest{};  // [its stream or another][its pool or the other]
  Bytes largest_pending{};
};

/// What was free before each of some allocations.
class GrowthView final : public Watch {
 public:
  /// `calls`: the allocations, and whether what each took serves small requests only.
  GrowthView(Allocator& policy, std::map<std::int64_t, bool> calls)
      : Watch{policy}, calls_{std::move(calls)}, next_{calls_.begin()} {}

  std::map<std::int64_t, FreeThen> then{};

 private:
  void before(const AllocRequest& request) override {
    if (next_ == calls_.end() || next_->first != call()) {
      return;
    }
    FreeThen& found = then[call()];
    found.request = request.size;
    for (const SegmentView& segment : view().segments) {
      const bool foreign_stream = segment.stream != request.stream;
      const bool foreign_pool = segment.small_pool != next_->second;
      for (const BlockView& block : segment.blocks) {
        if (block.state == BlockState::free) {
          Bytes& largest = found.largest[foreign_stream ? 1U : 0U][foreign_pool ? 1U : 0U];
          largest = std::max(largest, block.size);
          found.all += block.size;
        } else if (block.state == BlockState::pending) {
          found.largest_pending = std::max(found.largest_pending, block.size);
          found.all += block.size;
        }
      }
    }
    ++next_;
  }

  std::map<std::int64_t, bool> calls_;
  std::map<std::int64_t, bool>::const_iterator next_;
};

[[nodiscard]] GrowthReason reason_of(const FreeThen& then) {
  const Bytes need = then.request;
  if (then.all < need) {
    return GrowthReason::needed;
  }
  if (then.largest[0][0] >= need) {
    return GrowthReason::not_split;
  }
  if (then.largest_pending >= need) {
    return GrowthReason::held_by_stream;
  }
  if (then.largest[1][0] >= need) {
    return GrowthReason::other_stream;
  }
  if (then.largest[0][1] >= need || then.largest[1][1] >= need) {
    return GrowthReason::other_pool;
  }
  return GrowthReason::too_small;
}

/// The moments of some allocations of a trace, by their number.
class Moments {
 public:
  Moments(const Trace& trace, const std::set<std::int64_t>& calls) {
    std::int64_t call = 0;
    std::int64_t iteration = -1;
    std::uint32_t phase = 0;
    bool has_phase = false;
    auto next = calls.begin();
    for (std::size_t i = 0; i < trace.ops.size() && next != calls.end(); ++i) {
      const Op& op = trace.ops[i];
      if (op.kind == OpKind::mark) {
        if (mark_kind_of(op) == MarkKind::iteration) {
          ++iteration;
          has_phase = false;
        } else if (mark_kind_of(op) == MarkKind::phase) {
          phase = op.id;
          has_phase = true;
        }
      } else if (op.kind == OpKind::allocate && call++ == *next) {
        Known known{.moment = {.op = static_cast<std::int64_t>(i), .iteration = iteration},
                    .category = category_of(op)};
        if (has_phase) {
          known.moment.phase = trace.strings[phase];
        }
        if (i < trace.labels.size() && trace.labels[i] != 0) {
          known.moment.label = trace.strings[trace.labels[i] - 1];
        }
        add_event(trace, i, known.moment);
        known_.emplace(*next, std::move(known));
        ++next;
      }
    }
  }
  struct Known {
    Moment moment{};
    Category category{};
  };
  [[nodiscard]] const Known& at(std::int64_t call) const { return known_.at(call); }

 private:
  static void add_event(const Trace& trace, std::size_t op, Moment& moment) {
    if (!trace.recording || trace.recording->event_of_op.empty()) {
      return;
    }
    const Recording& recording = *trace.recording;
    const std::uint32_t event = recording.event_of_op[op];
    if (event == kNoEvent) {
      return;
    }
    moment.event = event;
    if (moment.label.empty() && event < recording.labels.size() && recording.labels[event] != 0) {
      moment.label = trace.strings[recording.labels[event] - 1];
    }
  }
  std::map<std::int64_t, Known> known_{};
};

/// What the segments of the peak have free, and why.
class Accounts {
 public:
  Accounts(const PeakView& peak, Waste& waste) : peak_{peak}, waste_{waste} {
    for (const SegmentView& segment : peak.heap.segments) {
      if (!segment.on_host) {
        add(segment);
      }
    }
    const Bytes hidden = Bytes{peak.books.reserved.current} - in_view_;
    if (hidden > Bytes{}) {
      Waste::Cause& cause = rows_[static_cast<std::size_t>(WasteCause::outside_view)];
      cause.bytes = hidden;
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].cause = static_cast<WasteCause>(i);
      if (rows_[i].bytes > Bytes{}) {
        waste_.causes.push_back(rows_[i]);
      }
    }
    std::sort(waste_.segments.begin(), waste_.segments.end(),
              [](const WastedSegment& a, const WastedSegment& b) {
                return std::pair{b.unused, a.address} < std::pair{a.unused, b.address};
              });
  }

 private:
  void add(const SegmentView& segment) {
    WastedSegment out{.address = segment.address,
                      .size = segment.size,
                      .stream = segment.stream,
                      .small_pool = segment.small_pool,
                      .expandable = segment.expandable};
    in_view_ += segment.size;
    const bool idle = std::all_of(segment.blocks.begin(), segment.blocks.end(),
                                  [](const BlockView& b) { return b.state == BlockState::free; });
    std::array<bool, kWasteCauseCount> seen{};
    for (const BlockView& block : segment.blocks) {
      if (block.state == BlockState::allocated) {
        continue;
      }
      const auto cause = static_cast<std::size_t>(cause_of(segment, block, idle));
      rows_[cause].bytes += block.size;
      ++rows_[cause].blocks;
      rows_[cause].segments += std::exchange(seen[cause], true) ? 0 : 1;
      out.unused += block.size;
      if (block.state == BlockState::free) {
        out.largest_free = std::max(out.largest_free, block.size);
      }
    }
    if (out.unused > Bytes{}) {
      out.blocks = segment.blocks;
      waste_.segments.push_back(std::move(out));
    }
  }

  [[nodiscard]] WasteCause cause_of(const SegmentView& segment, const BlockView& block,
                                    bool idle) const {
    if (block.state == BlockState::pending) {
      return WasteCause::held_by_stream;
    }
    if (segment.stream != peak_.request.stream) {
      return WasteCause::other_stream;
    }
    if (segment.small_pool) {
      return WasteCause::small_pool;
    }
    return idle ? WasteCause::idle_segment : WasteCause::pinned_hole;
  }

  const PeakView& peak_;
  Waste& waste_;
  Bytes in_view_{};
  std::array<Waste::Cause, kWasteCauseCount> rows_{};
};

/// The growth that gave `segment`: of several (an expandable one) the last.
[[nodiscard]] const Growth* growth_of(const PeakView& peak, const WastedSegment& segment) {
  const Growth* last = nullptr;
  for (auto it = peak.growths.lower_bound(segment.address);
       it != peak.growths.end() && it->first < segment.address + segment.size; ++it) {
    if (last == nullptr || it->second.call >= last->call) {
      last = &it->second;
    }
  }
  return last;
}

[[nodiscard]] std::optional<std::int64_t> call_of(const PeakView& peak, const BlockView& block) {
  const auto it = peak.call_of_block.find(block.address);
  return it == peak.call_of_block.end() ? std::nullopt : std::optional{it->second};
}

/// The allocations whose moments are told of.
[[nodiscard]] std::set<std::int64_t> calls_of(const PeakView& peak, const Waste& waste,
                                              std::int64_t peak_call) {
  std::set<std::int64_t> calls{peak_call};
  for (const WastedSegment& segment : waste.segments) {
    if (const Growth* growth = growth_of(peak, segment)) {
      calls.insert(growth->call);
    }
    for (const BlockView& block : segment.blocks) {
      if (const auto call = call_of(peak, block); call && block.state != BlockState::free) {
        calls.insert(*call);
      }
    }
  }
  return calls;
}

void tell_pins(const PeakView& peak, const Moments& moments, WastedSegment& segment) {
  for (const BlockView& block : segment.blocks) {
    if (block.state == BlockState::free) {
      continue;
    }
    Pin pin{.size = block.size,
            .requested = block.requested,
            .stream = block.stream,
            .pending = block.state == BlockState::pending};
    if (const auto call = call_of(peak, block)) {
      pin.born = moments.at(*call).moment;
      pin.category = moments.at(*call).category;
    }
    segment.pins.push_back(std::move(pin));
  }
  std::stable_sort(segment.pins.begin(), segment.pins.end(),
                   [](const Pin& a, const Pin& b) { return a.size > b.size; });
}

}  // namespace

std::string_view to_string(WasteCause cause) {
  static constexpr std::array<std::string_view, kWasteCauseCount> kNames{
      "held_by_stream", "other_stream", "small_pool",
      "idle_segment",   "pinned_hole",  "outside_view"};
  return kNames[static_cast<std::size_t>(cause)];
}

std::string_view to_string(GrowthReason reason) {
  static constexpr std::array<std::string_view, 6> kNames{
      "needed", "held_by_stream", "other_stream", "other_pool", "not_split", "too_small"};
  return kNames[static_cast<std::size_t>(reason)];
}

Expected<Waste> explain_waste(const Trace& trace, const WatchedRun& run) {
  Waste waste;
  std::optional<PeakFinder> finder;
  if (auto ran = run([&](Allocator& policy) -> Allocator& { return finder.emplace(policy); });
      !ran) {
    return ran.error();
  }
  const std::optional<std::int64_t> peak_call = finder->peak_call();
  finder.reset();
  if (!peak_call) {
    return waste;  // nothing was ever held
  }

  std::optional<PeakView> peak;
  if (auto ran =
          run([&](Allocator& policy) -> Allocator& { return peak.emplace(policy, *peak_call); });
      !ran) {
    return ran.error();
  }
  waste.reserved = Bytes{peak->books.reserved.current};
  waste.allocated = Bytes{peak->books.allocated.current};
  waste.requested = Bytes{peak->books.requested.current};
  waste.request = peak->request.size;
  waste.stream = peak->request.stream;
  for (const auto& [address, growth] : peak->growths) {
    if (growth.call == *peak_call) {
      waste.taken = MemoryRange{address, growth.size};
    }
  }
  static_cast<void>(Accounts{*peak, waste});

  std::map<std::int64_t, bool> growth_calls;
  for (const WastedSegment& segment : waste.segments) {
    if (const Growth* growth = growth_of(*peak, segment)) {
      growth_calls.emplace(growth->call, segment.small_pool);
    }
  }
  std::optional<GrowthView> growths;
  if (auto ran = run(
          [&](Allocator& policy) -> Allocator& { return growths.emplace(policy, growth_calls); });
      !ran) {
    return ran.error();
  }

  const Moments moments{trace, calls_of(*peak, waste, *peak_call)};
  waste.peak = moments.at(*peak_call).moment;
  for (WastedSegment& segment : waste.segments) {
    if (const Growth* growth = growth_of(*peak, segment)) {
      const FreeThen& then = growths->then.at(growth->call);
      segment.born = moments.at(growth->call).moment;
      segment.born_for = then.request;
      segment.reason = reason_of(then);
      segment.largest_usable = then.largest[0][0];
      segment.free_then = then.all;
    }
    tell_pins(*peak, moments, segment);
  }
  return waste;
}

}  // namespace peakcast
