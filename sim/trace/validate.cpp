#include "sim/trace/validate.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/trace/derive_program.hpp"
#include "sim/trace/recorded_start.hpp"

namespace peakcast {
namespace {

// Half of what 63 bits hold: the engine adds its own costs.
constexpr std::int64_t kLongest = std::int64_t{1} << 61;
// CUDA's limit. Source: CUDA C++ Programming Guide, technical specifications.
constexpr std::int64_t kMostLocalMemory = 512 << 10;

enum class Slot : std::uint8_t { free, live, live_held, pending, host };

class Checker {
 public:
  explicit Checker(const Trace& trace) : trace_{trace} {}

  std::optional<BadOp> run() {
    if (auto whole = check_tables()) {
      return BadOp{trace_.ops.size(), *std::move(whole)};
    }
    slots_.resize(trace_.buffer_slots);
    for (std::size_t i = 0; i < trace_.ops.size(); ++i) {
      if (auto why = check_op(trace_.ops[i])) {
        return BadOp{i, *std::move(why)};
      }
    }
    return std::nullopt;
  }

 private:
  using Why = std::optional<std::string>;

  [[nodiscard]] Why check_tables() const {
    const std::size_t ops = trace_.ops.size();
    if (trace_.buffer_slots > ops || trace_.event_slots > ops) {
      return "more buffers or events than ops";
    }
    if (trace_.streams.empty() || trace_.streams.size() > 0x10000) {
      return "a trace has 1 to 65536 streams";
    }
    if ((!trace_.labels.empty() && trace_.labels.size() != ops) ||
        (!trace_.times_us.empty() && trace_.times_us.size() != ops)) {
      return "labels or times are not one per op";
    }
    for (const std::uint32_t label : trace_.labels) {
      if (label > trace_.strings.size()) {
        return fmt::format("label {} is beyond the strings", label);
      }
    }
    if (!trace_.recording) {
      return std::nullopt;
    }
    const Recording& recording = *trace_.recording;
    const std::size_t events = recording.events.size();
    if ((!recording.event_of_op.empty() && recording.event_of_op.size() != ops) ||
        (!recording.labels.empty() && recording.labels.size() != events) ||
        (!recording.times_us.empty() && recording.times_us.size() != events)) {
      return "the recording's tables do not fit each other";
    }
    for (const std::uint32_t event : recording.event_of_op) {
      if (event != kNoEvent && event > events) {
        return fmt::format("entry {} is beyond the recording", event);
      }
    }
    for (const AllocatorEvent& event : recording.events) {
      if (event.stream.value >= trace_.streams.size()) {
        return "an entry names a stream beyond the table";
      }
    }
    for (const RecordedSegment& segment : recording.segments) {
      if (segment.stream.value >= trace_.streams.size()) {
        return "a segment names a stream beyond the table";
      }
    }
    return std::nullopt;
  }

  Why check_op(const Op& op) {
    if (op.stream >= trace_.streams.size()) {
      return fmt::format("stream {} of {}", op.stream, trace_.streams.size());
    }
    switch (op.kind) {
      case OpKind::allocate:
        return allocate(op);
      case OpKind::free:
      case OpKind::record_stream:
      case OpKind::complete:
        return use(op);
      case OpKind::record_event:
      case OpKind::wait_event:
      case OpKind::host_wait:
        return op.id < trace_.event_slots
                   ? Why{}
                   : fmt::format("event {} of {}", op.id, trace_.event_slots);
      case OpKind::launch:
      case OpKind::collective:
      case OpKind::host_work:
        if (op.value < 0 || op.value > kLongest || (time_ += op.value) > kLongest) {
          return fmt::format("a duration of {} ns, or a sum beyond 73 years", op.value);
        }
        return std::nullopt;
      case OpKind::mark:
        return op.id < trace_.strings.size() && (op.flags & kMarkMask) <= 2
                   ? Why{}
                   : fmt::format("mark {} of {} strings", op.id, trace_.strings.size());
      case OpKind::host_allocate:
        return host_allocate(op);
      case OpKind::host_free:
        return host_free(op);
      case OpKind::driver_memory:
        return size(op);
      case OpKind::local_memory:
        return op.value > 0 && op.value <= kMostLocalMemory
                   ? Why{}
                   : fmt::format("{} bytes of local memory per thread", op.value);
      case OpKind::empty_cache:
      case OpKind::synchronize:
        return std::nullopt;
    }
    return fmt::format("op kind {}", static_cast<int>(op.kind));
  }

  static Why size(const Op& op) {
    return op.value > 0 && op.value <= kLargestSize ? Why{}
                                                    : fmt::format("a size of {} bytes", op.value);
  }

  Why host_allocate(const Op& op) {
    if (op.id >= slots_.size()) {
      return fmt::format("buffer {} of {}", op.id, slots_.size());
    }
    if (Why why = size(op)) {
      return why;
    }
    if (slots_[op.id] != Slot::free) {
      return fmt::format("buffer {} is allocated twice", op.id);
    }
    slots_[op.id] = Slot::host;
    return std::nullopt;
  }

  Why host_free(const Op& op) {
    if (op.id >= slots_.size() || slots_[op.id] != Slot::host) {
      return fmt::format("buffer {} is freed, but is not the host's", op.id);
    }
    slots_[op.id] = Slot::free;
    return std::nullopt;
  }

  Why allocate(const Op& op) {
    if (op.id >= slots_.size()) {
      return fmt::format("buffer {} of {}", op.id, slots_.size());
    }
    if (Why why = size(op)) {
      return why;
    }
    if ((sum_ += op.value) > kLargestSum) {
      return "the sizes add up to more than 2 EiB";
    }
    if ((op.flags & kCategoryMask) >= kCategoryCount) {
      return fmt::format("category {}", op.flags & kCategoryMask);
    }
    if (slots_[op.id] != Slot::free) {
      return fmt::format("buffer {} is allocated twice", op.id);
    }
    slots_[op.id] = (op.flags & kAttempt) != 0 ? Slot::free : Slot::live;
    return std::nullopt;
  }

  Why use(const Op& op) {
    if (op.id >= slots_.size()) {
      return fmt::format("buffer {} of {}", op.id, slots_.size());
    }
    Slot& slot = slots_[op.id];
    const bool live = slot == Slot::live || slot == Slot::live_held;
    if (op.kind == OpKind::complete) {
      if (slot != Slot::pending) {
        return fmt::format("buffer {} completes, but is not held", op.id);
      }
      slot = Slot::free;
    } else if (!live) {
      return fmt::format("buffer {} is {}, but is not live", op.id,
                         op.kind == OpKind::free ? "freed" : "used by a stream");
    } else if (op.kind == OpKind::free) {
      slot = slot == Slot::live_held ? Slot::pending : Slot::free;
    } else if (trace_.streams[op.stream] == kUnknownStream) {
      slot = Slot::live_held;
    }
    return std::nullopt;
  }

  const Trace& trace_;
  std::vector<Slot> slots_{};
  std::int64_t sum_{};
  std::int64_t time_{};
};

/// Ranges of addresses that do not overlap.
class Ranges {
 public:
  /// The range that overlaps [begin, begin + size), or null.
  [[nodiscard]] const std::pair<const std::uint64_t, std::uint64_t>* overlap(std::uint64_t begin,
                                                                             Bytes size) const {
    const std::uint64_t end = begin + static_cast<std::uint64_t>(size.count());
    auto after = ranges_.lower_bound(end);
    if (after == ranges_.begin()) {
      return nullptr;
    }
    --after;
    return after->second > begin ? &*after : nullptr;
  }
  /// Whether the ranges cover [begin, begin + size) without a hole.
  [[nodiscard]] bool cover(std::uint64_t begin, Bytes size) const {
    const std::uint64_t end = begin + static_cast<std::uint64_t>(size.count());
    auto at = ranges_.upper_bound(begin);
    if (at == ranges_.begin()) {
      return false;
    }
    --at;
    while (at->second < end) {
      const std::uint64_t next = at->second;
      ++at;
      if (at == ranges_.end() || at->first != next) {
        return false;
      }
    }
    return begin < at->second;
  }
  void add(std::uint64_t begin, Bytes size) {
    ranges_.insert_or_assign(begin, begin + static_cast<std::uint64_t>(size.count()));
  }
  /// Takes [begin, begin + size) out; what sticks out of it stays.
  void cut(std::uint64_t begin, Bytes size) {
    const std::uint64_t end = begin + static_cast<std::uint64_t>(size.count());
    while (const auto* found = overlap(begin, size)) {
      const auto [from, to] = *found;
      ranges_.erase(from);
      if (from < begin) {
        ranges_[from] = begin;
      }
      if (to > end) {
        ranges_[end] = to;
      }
    }
  }
  [[nodiscard]] std::size_t size() const { return ranges_.size(); }
  [[nodiscard]] bool has(std::uint64_t begin) const { return ranges_.contains(begin); }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_{};  // begin -> end
};

class RecordingChecker {
 public:
  RecordingChecker(const Recording& recording, std::size_t most)
      : recording_{recording}, most_{most} {}

  std::vector<Finding> run() {
    const bool has_segments = std::any_of(
        recording_.events.begin(), recording_.events.end(), [](const AllocatorEvent& e) {
          return e.action == Action::segment_alloc || e.action == Action::segment_map;
        });
    know_segments_ = has_segments && !recording_.head_lost;
    for (std::size_t i = 0; i < recording_.events.size() && found_.size() < most_; ++i) {
      check(i, recording_.events[i]);
    }
    if (found_.size() < most_) {
      check_end();
    }
    return std::move(found_);
  }

 private:
  void find(std::size_t event, std::string what) {
    if (found_.size() < most_) {
      found_.push_back({event, std::move(what)});
    }
  }

  void check(std::size_t i, const AllocatorEvent& event) {
    const std::uint64_t address = event.address.value();
    if (i > 0 && !recording_.times_us.empty() &&
        recording_.times_us[i] < recording_.times_us[i - 1]) {
      find(i, "time runs backwards");
    }
    switch (event.action) {
      case Action::alloc:
        if (blocks_.overlap(address, event.size) != nullptr) {
          find(i, fmt::format("the block at {:x} lies over another", address));
        } else if (know_segments_ && !segments_.cover(address, event.size)) {
          find(i, fmt::format("the block at {:x} lies outside the segments", address));
        }
        blocks_.cut(address, event.size);
        blocks_.add(address, event.size);
        break;
      case Action::free_requested:
        break;
      case Action::free_completed:
        blocks_.cut(address, event.size);
        break;
      case Action::segment_alloc:
      case Action::segment_map:
        if (segments_.overlap(address, event.size) != nullptr) {
          find(i, fmt::format("the segment at {:x} lies over another", address));
        }
        segments_.cut(address, event.size);
        segments_.add(address, event.size);
        break;
      case Action::segment_free:
      case Action::segment_unmap:
        if (const auto* block = blocks_.overlap(address, event.size)) {
          find(i, fmt::format("the segment at {:x} is given back under the block at {:x}", address,
                              block->first));
        }
        if (know_segments_ && !segments_.cover(address, event.size)) {
          find(i, fmt::format("the segment at {:x} was never gained", address));
        }
        segments_.cut(address, event.size);
        break;
      case Action::oom:
      case Action::snapshot:
        break;
    }
  }

  void check_end() {
    if (recording_.segments.empty()) {
      return;
    }
    check_final_segments();
    // Other settings make other blocks.
    if (recording_.head_lost &&
        recording_.alloc_conf.find("roundup_power2_divisions") == std::string::npos) {
      if (const auto start = recorded_start(recording_, default_block_size); !start) {
        find(recording_.events.size(),
             "the entries do not lead to the final segments: " + start.error().message);
      }
    }
    std::size_t active = 0;
    for (const RecordedSegment& segment : recording_.segments) {
      Address address = segment.address;
      for (const RecordedBlock& block : segment.blocks) {
        active += block.active ? 1 : 0;
        if (block.active && !recording_.head_lost && !blocks_.has(address.value())) {
          find(recording_.events.size(),
               fmt::format("the final block at {:x} was never allocated", address.value()));
        }
        address = address + block.size;
      }
    }
    if (!recording_.head_lost && active != blocks_.size()) {
      find(recording_.events.size(),
           fmt::format("the final snapshot shows {} blocks in use, the entries leave {}", active,
                       blocks_.size()));
    }
  }

  /// No two lie at one address.
  void check_final_segments() {
    std::vector<const RecordedSegment*> sorted;
    for (const RecordedSegment& segment : recording_.segments) {
      sorted.push_back(&segment);
    }
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto* a, const auto* b) { return a->address < b->address; });
    for (std::size_t i = 1; i < sorted.size(); ++i) {
      const RecordedSegment& before = *sorted[i - 1];
      const RecordedSegment& segment = *sorted[i];
      if (before.address + before.size > segment.address) {
        find(recording_.events.size(),
             fmt::format("two final segments lie over each other: {} bytes at {:x} and {} at {:x}",
                         before.size.count(), before.address.value(), segment.size.count(),
                         segment.address.value()));
      }
    }
  }

  const Recording& recording_;
  std::size_t most_;
  bool know_segments_{};
  Ranges segments_{};
  Ranges blocks_{};
  std::vector<Finding> found_{};
};

}  // namespace

std::vector<Finding> findings(const Trace& trace, std::size_t most) {
  return trace.recording ? RecordingChecker{*trace.recording, most}.run() : std::vector<Finding>{};
}

std::optional<BadOp> first_fault(const Trace& trace) { return Checker{trace}.run(); }

}  // namespace peakcast
