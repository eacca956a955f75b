#include "sim/engine/replay.hpp"

#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

/// One run. `kBreakdown`: whether the trace tells categories, which costs a few ns per op.
template <bool kBreakdown>
class Replay {
 public:
  Replay(const Trace& trace, Allocator& allocator, Device& device, const ReplayOptions& options)
      : trace_{trace},
        allocator_{allocator},
        device_{device},
        options_{options},
        live_(trace.buffer_slots) {}

  ReplayReport run() {
    for (index_ = 0; index_ < trace_.ops.size() && !stopped_; ++index_) {
      step(trace_.ops[index_]);
    }
    finish_iteration();
    report_.statistics = allocator_.statistics();
    report_.device_calls = device_.counts();
    report_.device_time = device_.host_time();
    return std::move(report_);
  }

 private:
  struct Live {
    std::uint32_t block{kNone};
    std::uint8_t category{};
    std::int64_t size{};
  };
  static constexpr std::uint32_t kNone = 0xffffffffU;

  void step(const Op& op) {
    switch (op.kind) {
      case OpKind::allocate:
        allocate(op);
        break;
      case OpKind::free:
        free(op);
        break;
      case OpKind::record_stream:
        if (live_[op.id].block != kNone) {
          allocator_.record_stream(BlockId{live_[op.id].block}, StreamId{op.stream});
        }
        break;
      case OpKind::complete:
        complete(op);
        break;
      case OpKind::empty_cache:
        begin_op();
        allocator_.empty_cache();
        break;
      case OpKind::mark:
        mark(op);
        break;
      case OpKind::launch:
      case OpKind::collective:
      case OpKind::record_event:
      case OpKind::wait_event:
      case OpKind::host_wait:
      case OpKind::synchronize:
      case OpKind::host_work:
        break;
    }
  }

  void begin_op() {
    if (options_.addresses != nullptr && !trace_.recording->event_of_op.empty()) {
      options_.addresses->begin_op(trace_.recording->event_of_op[index_]);
    }
  }

  void allocate(const Op& op) {
    begin_op();
    ++report_.program_ops;
    const AllocOutcome outcome =
        allocator_.allocate(AllocRequest{.size = Bytes{op.value}, .stream = StreamId{op.stream}});
    if (!late_.empty()) [[unlikely]] {
      // The recorded allocator waited here; this policy did not have to, and by now it may know.
      for (const std::uint32_t buffer : late_) {
        options_.streams->complete(buffer);
      }
      late_.clear();
      allocator_.poll();
    }
    if (const auto* placement = std::get_if<Placement>(&outcome)) [[likely]] {
      if ((op.flags & kAttempt) != 0) [[unlikely]] {
        allocator_.deallocate(placement->block);
        return;
      }
      Live& live = live_[op.id];
      live.block = placement->block.value;
      if constexpr (kBreakdown) {
        live.category = op.flags & kCategoryMask;
        live.size = placement->size.count();
        by_category_[live.category] += Bytes{live.size};
        allocated_ += live.size;
        if (allocated_ > peak_allocated_) {
          peak_allocated_ = allocated_;
          report_.at_peak = by_category_;
        }
      }
      return;
    }
    live_[op.id].block = kNone;
    if (!report_.oom) {
      report_.oom = OomReport{.out_of_memory = std::get<OutOfMemory>(outcome),
                              .op_index = static_cast<std::int64_t>(index_),
                              .iteration = iteration_,
                              .phase = phase_,
                              .op = label()};
    }
    stopped_ = options_.stop_at_oom;
  }

  [[nodiscard]] std::string label() const {
    if (index_ < trace_.labels.size() && trace_.labels[index_] != 0) {
      return trace_.strings[trace_.labels[index_] - 1];
    }
    return {};
  }

  void free(const Op& op) {
    Live& live = live_[op.id];
    if (live.block == kNone) [[unlikely]] {
      return;  // its allocation had failed
    }
    ++report_.program_ops;
    if (options_.streams != nullptr) {
      options_.streams->begin_free(op.id);
      allocator_.deallocate(BlockId{live.block});
      options_.streams->end_free();
    } else {
      allocator_.deallocate(BlockId{live.block});
    }
    live.block = kNone;
    if constexpr (kBreakdown) {
      by_category_[live.category] -= Bytes{live.size};
      allocated_ -= live.size;
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
        allocator_.begin_iteration(iteration_);
        break;
      case MarkKind::phase:
        phase_ = trace_.strings[op.id];
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
                                                 .reserved = Bytes{now.reserved.current}});
  }

  const Trace& trace_;
  Allocator& allocator_;
  Device& device_;
  const ReplayOptions& options_;
  std::vector<Live> live_;             // by buffer
  std::vector<std::uint32_t> late_{};  // buffers whose completion the recording saw while waiting
  std::array<Bytes, kCategoryCount> by_category_{};
  std::int64_t allocated_{};
  std::int64_t peak_allocated_{};
  std::int64_t iteration_{-1};
  std::string phase_{};
  std::size_t index_{};
  bool stopped_{};
  ReplayReport report_{};
};

}  // namespace

ReplayReport replay(const Trace& trace, Allocator& allocator, Device& device,
                    const ReplayOptions& options) {
  // A recording's buffers have no category.
  if (trace.recording) {
    return Replay<false>{trace, allocator, device, options}.run();
  }
  return Replay<true>{trace, allocator, device, options}.run();
}

}  // namespace peakcast
