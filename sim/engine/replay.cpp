#include "sim/engine/replay.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

/// The clock of an untimed replay: nothing takes time, and none is spent on it.
class NoClock {
 public:
  NoClock(const Trace& /*trace*/, Allocator& /*allocator*/, Device& /*device*/,
          const TimedReplay* /*timing*/) {}
  void before_allocator() {}
  void after_allocator() {}
  void program(const Op& /*op*/, std::size_t /*index*/) {}
  void phase(const std::string& /*name*/) {}
  void out_of_memory() {}
  void finish(ReplayReport& /*report*/) {}
  void begin_iteration() {}
  void end_iteration(IterationReport& /*report*/) {}
  [[nodiscard]] SimTime now() const { return {}; }
};

/// The clock of a timed replay, and what it writes into a timeline. Tracks: 0 the host's phases,
/// then one per stream.
class Clock final : public WorkSink {
 public:
  Clock(const Trace& trace, Allocator& allocator, Device& device, const TimedReplay* timing)
      : trace_{trace},
        allocator_{allocator},
        device_{device},
        timing_{*timing},
        streams_{*timing->streams},
        events_(trace.event_slots),
        driver_time_{device.host_time()} {
    if (timing_.timeline != nullptr) {
      streams_.set_sink(this);
      timing_.timeline->track(0, "host");
      for (std::uint32_t stream = 0; stream < trace_.streams.size(); ++stream) {
        timing_.timeline->track(stream + 1, "stream " + std::to_string(stream));
      }
    }
  }
  ~Clock() override {
    for (const std::optional<EventId>& event : events_) {
      if (event) {
        streams_.forget(*event);
      }
    }
    streams_.set_sink(nullptr);
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  [[nodiscard]] SimTime now() const { return streams_.host_now(); }
  void before_allocator() { streams_.spend(timing_.allocator_call, HostActivity::allocator); }
  void after_allocator() {
    const SimDuration driver_time = device_.host_time();
    streams_.spend(driver_time - driver_time_, HostActivity::allocator);
    driver_time_ = driver_time;
    if (timing_.timeline != nullptr) {
      sample();
    }
  }

  void program(const Op& op, std::size_t index) {
    const StreamId stream{op.stream};
    switch (op.kind) {
      case OpKind::launch:
      case OpKind::collective:
        streams_.launch(stream, op.kind == OpKind::launch ? WorkKind::kernel : WorkKind::collective,
                        SimDuration{op.value},
                        index < trace_.labels.size() ? trace_.labels[index] : 0);
        break;
      case OpKind::record_event: {
        std::optional<EventId>& slot = events_[op.id];
        if (slot) {
          streams_.forget(*slot);
        }
        slot = streams_.record(stream);
        break;
      }
      case OpKind::wait_event:
        if (events_[op.id]) {  // an event that was never recorded holds nobody, as in CUDA
          streams_.wait_event(stream, *events_[op.id]);
        }
        break;
      case OpKind::host_wait:
        if (events_[op.id]) {
          streams_.wait(*events_[op.id]);
        }
        break;
      case OpKind::synchronize:
        if ((op.flags & kAllStreams) != 0) {
          streams_.synchronize_device();
        } else {
          streams_.synchronize(stream);
        }
        break;
      case OpKind::host_work:
        streams_.spend(SimDuration{op.value}, HostActivity::program);
        break;
      default:
        break;
    }
  }

  void phase(const std::string& name) {
    end_slice(phase_, phase_began_);
    phase_ = name;
    phase_began_ = streams_.host_now();
  }
  void out_of_memory() {
    if (timing_.timeline != nullptr) {
      timing_.timeline->instant(0, "out of memory", streams_.host_now());
    }
  }
  void begin_iteration() {
    iteration_began_ = streams_.host_now();
    split_before_ = streams_.split();
  }
  void end_iteration(IterationReport& report) {
    phase({});
    report.duration = streams_.host_now() - iteration_began_;
    report.split = streams_.split() - split_before_;
    end_slice("iteration", iteration_began_);
  }
  void finish(ReplayReport& report) {
    streams_.synchronize_device();
    phase({});
    report.duration = streams_.host_now() - SimTime{};
    report.split = streams_.split();
    report.kernel_time = streams_.kernel_time();
    report.collective_time = streams_.collective_time();
  }

  void on_work(StreamId stream, WorkKind kind, SimTime begin, SimTime end,
               std::uint32_t label) override {
    const bool kernel = kind == WorkKind::kernel;
    const std::string_view name = label != 0 ? std::string_view{trace_.strings[label - 1]}
                                  : kernel   ? std::string_view{"kernel"}
                                             : std::string_view{"collective"};
    timing_.timeline->slice(stream.value + 1, name, kernel ? "kernel" : "collective", begin, end);
  }

 private:
  void end_slice(const std::string& name, SimTime began) {
    if (timing_.timeline != nullptr && !name.empty()) {
      timing_.timeline->slice(0, name, "program", began, streams_.host_now());
    }
  }
  void sample() {
    const Statistics& now = allocator_.statistics();
    if (now.allocated.current == allocated_ && now.active.current == active_ &&
        now.reserved.current == reserved_) {
      return;
    }
    allocated_ = now.allocated.current;
    active_ = now.active.current;
    reserved_ = now.reserved.current;
    timing_.timeline->counter("memory", streams_.host_now(),
                              {{"allocated_bytes", allocated_},
                               {"active_bytes", active_},
                               {"reserved_bytes", reserved_}});
  }

  const Trace& trace_;
  Allocator& allocator_;
  Device& device_;
  const TimedReplay& timing_;
  TimedStreams& streams_;
  std::vector<std::optional<EventId>> events_;  // by the trace's event id
  SimDuration driver_time_{};
  SimTime iteration_began_{};
  TimeSplit split_before_{};
  std::string phase_{};
  SimTime phase_began_{};
  std::int64_t allocated_{-1};
  std::int64_t active_{-1};
  std::int64_t reserved_{-1};
};

/// One run. `kBreakdown`: whether the trace tells categories; `kRecorded`: whether the streams or
/// the addresses are a recording's. Each costs a few ns per op.
template <bool kBreakdown, bool kRecorded, class Time>
class Replay {
 public:
  Replay(const Trace& trace, Allocator& allocator, Device& device, const ReplayOptions& options)
      : trace_{trace},
        allocator_{allocator},
        device_{device},
        options_{options},
        blocks_(trace.buffer_slots, kUnplaced),
        kept_(kBreakdown ? trace.buffer_slots : 0),
        clock_{trace, allocator, device, options.timing} {}

  ReplayReport run() {
    end_ = trace_.ops.data() + trace_.ops.size();
    op_ = trace_.ops.data();
    if (trace_.recording && trace_.recording->head_lost) {
      resume();
    }
    for (; op_ != end_; ++op_) {
      if (kInARow && serve()) {
        break;
      }
      const Op& op = *op_;
      if (!kInARow && options_.observer != nullptr) [[unlikely]] {
        options_.observer->begin_op(index(), clock_.now());
      }
      // Nearly all ops are these two; which of them comes next is guessed better by an `if`.
      if (op.kind == OpKind::allocate) {
        allocate(op);
      } else if (op.kind == OpKind::free) {
        free(op);
      } else {
        step(op);
      }
    }
    clock_.finish(report_);
    if (options_.observer != nullptr) {
      options_.observer->on_end();
    }
    finish_iteration();
    report_.statistics = allocator_.statistics();
    report_.device_calls = device_.counts();
    report_.device_time = device_.host_time();
    report_.transfers = allocator_.transfers();
    report_.fault = allocator_.fault();
    return std::move(report_);
  }

 private:
  /// Between two ops there is nothing to be done: the allocator may have many at once.
  static constexpr bool kInARow = !kBreakdown && !kRecorded && std::is_same_v<Time, NoClock>;
  struct Kept {
    std::int64_t size{};
    std::uint8_t category{};
  };

  [[nodiscard]] std::size_t index() const {
    return static_cast<std::size_t>(op_ - trace_.ops.data());
  }

  /// The heap that was there when the recording began, if the allocator can begin with it. The ops
  /// before the first entry then tell which buffer has which block.
  void resume() {
    const auto blocks = allocator_.resume(trace_);
    if (!blocks) {
      report_.not_resumed = blocks.error().message;
      return;
    }
    EventSink* const sink = allocator_.sink();
    allocator_.set_sink(nullptr);
    auto next = blocks->begin();
    const std::vector<std::uint32_t>& events = trace_.recording->event_of_op;
    for (; op_ != end_ && events[index()] == kNoEvent; ++op_) {
      if (op_->kind == OpKind::allocate) {
        blocks_[op_->id] = *next++;
      } else if (op_->kind == OpKind::free) {
        free(*op_);
      } else {
        step(*op_);
      }
    }
    allocator_.set_sink(sink);
    allocator_.reset_peaks();
  }

  /// Ops from the present one on, as many as the allocator takes; whether that was all.
  [[nodiscard]] bool serve() {
    while (op_ != end_) {
      const Served served = allocator_.serve({op_, end_}, blocks_);
      report_.program_ops += static_cast<std::int64_t>(served.ops);
      op_ += served.ops;
      if (!served.failure) {
        break;
      }
      ++report_.program_ops;
      fail(*op_, *served.failure);
      ++op_;
    }
    return op_ == end_;
  }

  void step(const Op& op) {
    switch (op.kind) {
      case OpKind::allocate:
      case OpKind::free:
        break;
      case OpKind::record_stream:
        if (blocks_[op.id] != kUnplaced) {
          clock_.before_allocator();
          allocator_.record_stream(blocks_[op.id], StreamId{op.stream});
        }
        break;
      case OpKind::complete:
        complete(op);
        break;
      case OpKind::empty_cache:
        begin_op();
        wait_for_recorded_card();
        clock_.before_allocator();
        allocator_.empty_cache();
        clock_.after_allocator();
        break;
      case OpKind::mark:
        mark(op);
        break;
      case OpKind::host_allocate:
        device_.host_allocate(op.id, Bytes{op.value});
        break;
      case OpKind::host_free:
        device_.host_free(op.id);
        break;
      case OpKind::driver_memory:
        device_.driver_memory(Bytes{op.value});
        break;
      case OpKind::local_memory:
        device_.local_memory(Bytes{op.value});
        break;
      case OpKind::host_wait:
      case OpKind::synchronize:
        clock_.program(op, index());
        if (op.kind != OpKind::synchronize || (op.flags & kWithinDriver) == 0) {
          device_.synchronized();
        }
        break;
      case OpKind::launch:
      case OpKind::collective:
      case OpKind::record_event:
      case OpKind::wait_event:
      case OpKind::host_work:
        clock_.program(op, index());
        break;
    }
  }

  void tell_time() {
    if (kRecorded && options_.pace != nullptr) {
      options_.pace->at(index());
    }
  }

  /// A recording does not tell when the host waited; here it must have.
  void wait_for_recorded_card() {
    if (kRecorded && options_.pace != nullptr) {
      options_.pace->synchronize_device();
    }
  }

  void begin_op() {
    tell_time();
    if (kRecorded && options_.addresses != nullptr && !trace_.recording->event_of_op.empty()) {
      options_.addresses->begin_op(trace_.recording->event_of_op[index()]);
    }
  }

  void allocate(const Op& op) {
    begin_op();
    ++report_.program_ops;
    clock_.before_allocator();
    const AllocOutcome outcome =
        allocator_.allocate(AllocRequest{.size = Bytes{op.value}, .stream = StreamId{op.stream}});
    clock_.after_allocator();
    if (kRecorded && std::exchange(inputs_due_, false)) [[unlikely]] {
      wait_for_recorded_card();
      device_.synchronized();
    }
    if (kRecorded && !late_.empty()) [[unlikely]] {
      // The recorded allocator waited here; this policy did not have to, and by now it may know.
      for (const std::uint32_t buffer : late_) {
        options_.streams->complete(buffer);
      }
      late_.clear();
      allocator_.poll();
    }
    if (const auto* placement = std::get_if<Placement>(&outcome)) [[likely]] {
      if (options_.observer != nullptr) [[unlikely]] {
        options_.observer->on_placed(*placement);
      }
      if ((op.flags & kAttempt) != 0) [[unlikely]] {
        allocator_.deallocate(placement->block);
        return;
      }
      blocks_[op.id] = placement->block;
      if constexpr (kBreakdown) {
        Kept& kept = kept_[op.id];
        kept.category = op.flags & kCategoryMask;
        kept.size = placement->size.count();
        by_category_[kept.category] += Bytes{kept.size};
        allocated_ += kept.size;
        if (allocated_ > peak_allocated_) {
          peak_allocated_ = allocated_;
          report_.at_peak = by_category_;
        }
      }
      return;
    }
    fail(op, std::get<OutOfMemory>(outcome));
  }

  void fail(const Op& op, const OutOfMemory& why) {
    blocks_[op.id] = kUnplaced;
    if (!report_.oom) {
      report_.oom = OomReport{.out_of_memory = why,
                              .op_index = static_cast<std::int64_t>(index()),
                              .iteration = iteration_,
                              .phase = phase_,
                              .op = label()};
    }
    clock_.out_of_memory();
    if (options_.stop_at_oom) {
      end_ = op_ + 1;
    }
  }

  [[nodiscard]] std::string label() const {
    if (index() < trace_.labels.size() && trace_.labels[index()] != 0) {
      return trace_.strings[trace_.labels[index()] - 1];
    }
    return {};
  }

  void free(const Op& op) {
    BlockId& block = blocks_[op.id];
    if (block == kUnplaced) [[unlikely]] {
      return;  // its allocation had failed
    }
    tell_time();
    ++report_.program_ops;
    clock_.before_allocator();
    if (kRecorded && options_.streams != nullptr) {
      options_.streams->begin_free(op.id);
      allocator_.deallocate(block);
      options_.streams->end_free();
    } else {
      allocator_.deallocate(block);
    }
    clock_.after_allocator();
    block = kUnplaced;
    if constexpr (kBreakdown) {
      const Kept& kept = kept_[op.id];
      by_category_[kept.category] -= Bytes{kept.size};
      allocated_ -= kept.size;
    }
  }

  void complete(const Op& op) {
    if (options_.streams == nullptr) {
      return;
    }
    if ((op.flags & kAtSync) != 0) {
      late_.push_back(op.id);
      return;
    }
    options_.streams->complete(op.id);
    allocator_.poll();
  }

  void mark(const Op& op) {
    switch (mark_kind_of(op)) {
      case MarkKind::iteration:
        finish_iteration();
        ++iteration_;
        phase_.clear();
        tell_time();
        allocator_.begin_iteration(iteration_);
        clock_.begin_iteration();
        if (kRecorded && options_.pace != nullptr) {
          inputs_due_ = true;
        }
        break;
      case MarkKind::phase:
        phase_ = trace_.strings[op.id];
        clock_.phase(phase_);
        break;
      case MarkKind::op:
        break;
    }
  }

  void finish_iteration() {
    if (iteration_ < 0) {
      return;
    }
    const Statistics& now = allocator_.statistics();
    report_.iterations.push_back(IterationReport{.peak_allocated = Bytes{now.allocated.peak},
                                                 .peak_reserved = Bytes{now.reserved.peak},
                                                 .allocated = Bytes{now.allocated.current},
                                                 .reserved = Bytes{now.reserved.current},
                                                 .device_calls = device_.counts(),
                                                 .device_time = device_.host_time(),
                                                 .program_ops = report_.program_ops});
    clock_.end_iteration(report_.iterations.back());
  }

  const Trace& trace_;
  Allocator& allocator_;
  Device& device_;
  const ReplayOptions& options_;
  std::vector<BlockId> blocks_;  // by buffer
  std::vector<Kept> kept_;       // the same; empty without a breakdown
  Time clock_;
  std::vector<std::uint32_t> late_{};  // buffers whose completion the recording saw while waiting
  std::array<Bytes, kCategoryCount> by_category_{};
  std::int64_t allocated_{};
  std::int64_t peak_allocated_{};
  std::int64_t iteration_{-1};
  std::string phase_{};
  bool inputs_due_{};  ///< a recording: the host waits next when it has copied the first input
  const Op* op_{};     // the present one
  const Op* end_{};    // where the run ends
  ReplayReport report_{};
};

}  // namespace

ReplayReport replay(const Trace& trace, Allocator& allocator, Device& device,
                    const ReplayOptions& options) {
  if (options.timing != nullptr) {
    return Replay<true, true, Clock>{trace, allocator, device, options}.run();
  }
  if (!trace.recording) {
    return Replay<true, true, NoClock>{trace, allocator, device, options}.run();
  }
  // A recording's buffers have no category, a capture's have.
  if (std::any_of(trace.ops.begin(), trace.ops.end(), [](const Op& op) {
        return op.kind == OpKind::allocate && category_of(op) != Category::unknown;
      })) {
    return Replay<true, true, NoClock>{trace, allocator, device, options}.run();
  }
  if (options.streams != nullptr || options.addresses != nullptr || options.observer != nullptr) {
    return Replay<false, true, NoClock>{trace, allocator, device, options}.run();
  }
  return Replay<false, false, NoClock>{trace, allocator, device, options}.run();
}

}  // namespace peakcast
