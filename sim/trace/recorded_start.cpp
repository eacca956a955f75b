#include "sim/trace/recorded_start.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/trace/derive_program.hpp"

namespace peakcast {
namespace {

constexpr std::uint64_t kMostSlack = 1ULL << 20;     // of a block in the large pool
constexpr std::int64_t kSmallSegment = 2ULL << 20;   // the only size of the small pool's
constexpr std::int64_t kLargeSegment = 20ULL << 20;  // what the large pool maps by default

std::uint64_t length(Bytes size) { return static_cast<std::uint64_t>(size.count()); }

class WalkBack {
 public:
  WalkBack(const Recording& recording, const BlockRule& rule)
      : recording_{recording}, rule_{rule} {}

  Expected<std::vector<RecordedSegment>> run() {
    for (const AllocatorEvent& event : recording_.events) {
      if (event.action == Action::segment_map) {
        mapped_.insert_or_assign(event.address.value(), event.size);
      }
    }
    if (auto wrong = begin_at_the_end()) {
      return invalid_input(*std::move(wrong));
    }
    for (std::size_t i = recording_.events.size(); i-- > 0;) {
      if (auto wrong = undo(recording_.events[i])) {
        return invalid_input(fmt::format("entry {}: {}", i, *wrong));
      }
    }
    return heap();
  }

 private:
  using Wrong = std::optional<std::string>;

  struct Held {
    std::uint64_t end{};
    Bytes requested{};
    bool pending{};  // dropped by the program; a stream holds it
    bool exact{};    // `end` is known
  };
  using Segments = std::map<std::uint64_t, RecordedSegment>;

  Wrong begin_at_the_end() {
    for (const RecordedSegment& segment : recording_.segments) {
      const std::uint64_t begin = segment.address.value();
      if (touches(begin, begin + length(segment.size))) {
        return fmt::format("two final segments lie at {:#x}", begin);
      }
      RecordedSegment bare = segment;
      bare.blocks.clear();
      segments_.emplace(begin, std::move(bare));
      std::uint64_t at = begin;
      for (const RecordedBlock& block : segment.blocks) {
        const std::uint64_t end = at + length(block.size);
        if (block.active) {
          const Bytes requested = block.requested > Bytes{} ? block.requested : block.size;
          held_.emplace(at, Held{end, requested, !block.allocated, true});
        }
        at = end;
      }
    }
    return std::nullopt;
  }

  Wrong undo(const AllocatorEvent& event) {
    const std::uint64_t at = event.address.value();
    switch (event.action) {
      case Action::alloc:
        return held_.erase(at) == 1 ? Wrong{}
                                    : fmt::format("the block at {:#x} is not in use after it", at);
      case Action::free_completed:
        return hold(event);
      case Action::free_requested: {
        const auto block = held_.find(at);
        if (block == held_.end()) {
          return fmt::format("the block at {:#x} was not in use before it", at);
        }
        block->second.pending = false;
        return std::nullopt;
      }
      case Action::segment_alloc:
      case Action::segment_map:
        return take_away(event);
      case Action::segment_free:
      case Action::segment_unmap:
        return put_back(event);
      case Action::oom:
      case Action::snapshot:
        break;
    }
    return std::nullopt;
  }

  Wrong hold(const AllocatorEvent& event) {
    const std::uint64_t at = event.address.value();
    const auto segment = segment_of(at);
    if (segment == segments_.end()) {
      return fmt::format("the block at {:#x} lay in no segment", at);
    }
    const auto next = held_.lower_bound(at);
    const std::uint64_t segment_end = segment->first + length(segment->second.size);
    const std::uint64_t room_end =
        next != held_.end() ? std::min(next->first, segment_end) : segment_end;
    const bool inside = next != held_.begin() && std::prev(next)->second.end > at;
    if (inside || room_end < at + length(event.size)) {
      return fmt::format("the block at {:#x} lay over another", at);
    }
    const Bytes room{static_cast<std::int64_t>(room_end - at)};
    const Bytes size = rule_(event.size, room, segment->second);
    if (size > room || size < event.size) {
      return fmt::format("{} bytes at {:#x} did not fit", event.size.count(), at);
    }
    settle_before(at);
    held_.emplace_hint(next, at, Held{at + length(size), event.size, true, size == room});
    return std::nullopt;
  }

  /// A block begins at `at`: one in front of it that leaves less than any block takes reaches it.
  void settle_before(std::uint64_t at) {
    const auto next = held_.lower_bound(at);
    if (next == held_.begin()) {
      return;
    }
    const auto& [begin, before] = *std::prev(next);
    const auto segment = segment_of(begin);
    if (!before.exact && at - before.end <= kMostSlack && segment == segment_of(at) &&
        !segment->second.small_pool && !segment->second.expandable) {
      std::prev(next)->second.end = at;
      std::prev(next)->second.exact = true;
    }
  }

  Wrong take_away(const AllocatorEvent& event) {
    const std::uint64_t begin = event.address.value();
    const std::uint64_t end = begin + length(event.size);
    const auto segment = segment_of(begin);
    const bool whole = event.action == Action::segment_alloc;
    if (segment == segments_.end() || segment->first + length(segment->second.size) < end ||
        (whole && (segment->first != begin || segment->second.size != event.size))) {
      return fmt::format("{} bytes at {:#x} are in no segment after it", event.size.count(), begin);
    }
    const auto next = held_.lower_bound(end);
    if (next != held_.begin() && std::prev(next)->second.end > begin) {
      return fmt::format("a block is in use at {:#x} before there was memory", begin);
    }
    RecordedSegment front = segment->second;
    segments_.erase(segment);
    RecordedSegment rest = front;
    rest.address = Address{end};
    rest.size = front.address + front.size - Address{end};
    front.size = Address{begin} - front.address;
    for (RecordedSegment* part : {&front, &rest}) {
      if (part->size > Bytes{}) {
        segments_.emplace(part->address.value(), std::move(*part));
      }
    }
    return std::nullopt;
  }

  Wrong put_back(const AllocatorEvent& event) {
    const std::uint64_t begin = event.address.value();
    const std::uint64_t end = begin + length(event.size);
    if (touches(begin, end)) {
      return fmt::format("the segment at {:#x} lay over another", begin);
    }
    RecordedSegment segment{.address = event.address,
                            .size = event.size,
                            .stream = event.stream,
                            .expandable = event.action == Action::segment_unmap};
    segment.small_pool = event.size.count() == kSmallSegment;
    if (segment.expandable) {
      // The small pool maps one page at a time.
      const auto mapped = mapped_.lower_bound(begin);
      segment.small_pool = mapped != mapped_.end() && mapped->first < end
                               ? mapped->second.count() == kSmallSegment
                               : event.size.count() % kLargeSegment != 0;
      join(segment);
    }
    segments_.emplace(segment.address.value(), std::move(segment));
    return std::nullopt;
  }

  /// Mapped runs that touch are one; what lies beside a run is of its pool.
  void join(RecordedSegment& segment) {
    const auto joins = [&](const RecordedSegment& other) {
      return other.expandable && other.stream == segment.stream;
    };
    const auto take = [&](Segments::iterator other) {
      segment.small_pool = other->second.small_pool;
      segment.pool = other->second.pool;
      segment.address = std::min(segment.address, other->second.address);
      segment.size += other->second.size;
      segments_.erase(other);
    };
    const auto behind = segments_.find((segment.address + segment.size).value());
    if (behind != segments_.end() && joins(behind->second)) {
      take(behind);
    }
    const auto next = segments_.lower_bound(segment.address.value());
    if (next != segments_.begin()) {
      const auto before = std::prev(next);
      if (before->second.address + before->second.size == segment.address &&
          joins(before->second)) {
        take(before);
      }
    }
  }

  [[nodiscard]] Segments::iterator segment_of(std::uint64_t at) {
    auto next = segments_.upper_bound(at);
    if (next == segments_.begin()) {
      return segments_.end();
    }
    --next;
    return at < next->first + length(next->second.size) ? next : segments_.end();
  }
  /// Whether a segment has a part of [begin, end).
  [[nodiscard]] bool touches(std::uint64_t begin, std::uint64_t end) const {
    const auto next = segments_.lower_bound(end);
    return next != segments_.begin() &&
           std::prev(next)->first + length(std::prev(next)->second.size) > begin;
  }

  [[nodiscard]] std::vector<RecordedSegment> heap() const {
    std::vector<RecordedSegment> out;
    for (const auto& [begin, segment] : segments_) {
      out.push_back(segment);
      std::vector<RecordedBlock>& blocks = out.back().blocks;
      const std::uint64_t end = begin + length(segment.size);
      std::uint64_t at = begin;
      const auto put_free = [&](std::uint64_t until) {
        if (at < until) {
          blocks.push_back({.size = Address{until} - Address{at}});
        }
      };
      for (auto block = held_.lower_bound(begin); block != held_.end() && block->first < end;
           ++block) {
        put_free(block->first);
        at = block->second.end;
        blocks.push_back({.size = Address{at} - Address{block->first},
                          .requested = block->second.requested,
                          .allocated = !block->second.pending,
                          .active = true});
      }
      put_free(end);
    }
    return out;
  }

  const Recording& recording_;
  const BlockRule& rule_;
  Segments segments_{};
  std::map<std::uint64_t, Held> held_{};     // blocks in use, by address
  std::map<std::uint64_t, Bytes> mapped_{};  // what was ever mapped in one piece, by address
};

}  // namespace

std::optional<Bytes> reserved_at_start(const Recording& recording) {
  if (recording.segments.empty()) {
    return std::nullopt;
  }
  std::int64_t sum = 0;
  for (const RecordedSegment& segment : recording.segments) {
    sum = std::min(sum + segment.size.count(), kLargestSum);
  }
  for (const AllocatorEvent& event : recording.events) {
    if (event.action == Action::segment_alloc || event.action == Action::segment_map) {
      sum -= event.size.count();
    } else if (event.action == Action::segment_free || event.action == Action::segment_unmap) {
      sum += event.size.count();
    }
    if (sum >= kLargestSum || sum <= -kLargestSum) {
      return std::nullopt;
    }
  }
  return sum < 0 ? std::nullopt : std::optional{Bytes{sum}};
}

Bytes default_block_size(Bytes requested, Bytes room, const RecordedSegment& segment) {
  const Bytes size = round_up(requested, Bytes{512});
  const Bytes rest = size < room ? room - size : Bytes{};
  const Bytes least{
      segment.small_pool || segment.expandable ? 512 : static_cast<std::int64_t>(kMostSlack) + 1};
  return rest >= least ? size : room;
}

Expected<std::vector<RecordedSegment>> recorded_start(const Recording& recording,
                                                      const BlockRule& rule) {
  return WalkBack{recording, rule}.run();
}

}  // namespace peakcast
