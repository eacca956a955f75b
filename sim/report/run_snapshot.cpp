#include "sim/report/run_snapshot.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

using namespace literals;

/// What a small pool's segments hold at most, in PyTorch and whoever follows it.
constexpr Bytes kSmallRequest = 1_MiB;
constexpr Bytes kAlignment = 512_B;

class Layout {
 public:
  Layout(const Recording& log, std::span<const Bytes> block_sizes)
      : log_{log}, block_sizes_{block_sizes} {
    out_ = log;
    out_.events.clear();
    out_.event_of_op.clear();
    out_.times_us.clear();
    out_.labels.clear();
    all_mapped_ = std::any_of(
        log.events.begin(), log.events.end(),
        [](const AllocatorEvent& event) { return event.action == Action::segment_map; });
  }

  RunSnapshot run() {
    for (entry_ = 0; entry_ < log_.events.size(); ++entry_) {
      step(log_.events[entry_]);
    }
    finish();
    return {std::move(out_), std::move(source_)};
  }

 private:
  struct Held {
    Bytes size{};
    StreamId stream{};
    bool of_one_block{};  ///< made up here for a block that lies in no segment
  };
  struct Live {
    AllocatorEvent alloc{};
    std::size_t entry{};  ///< of its alloc, for its label
    bool dropped{};       ///< free_requested
    bool away{};          ///< not on the card
  };

  void step(const AllocatorEvent& event) {
    switch (event.action) {
      case Action::segment_alloc:
      case Action::segment_map:
        gain(event, false);
        break;
      case Action::segment_free:
      case Action::segment_unmap:
        lose(event);
        break;
      case Action::alloc:
        hand_out(event);
        break;
      case Action::free_requested:
        drop(event);
        break;
      case Action::free_completed:
        complete(event);
        break;
      case Action::oom:
      case Action::snapshot:
        put(event, entry_);
        break;
    }
  }

  /// `event` at the time of the present entry, with the label of entry `like`.
  void put(AllocatorEvent event, std::size_t like) {
    if (all_mapped_ && event.action == Action::segment_alloc) {
      event.action = Action::segment_map;
    }
    if (all_mapped_ && event.action == Action::segment_free) {
      event.action = Action::segment_unmap;
    }
    out_.events.push_back(event);
    source_.push_back(static_cast<std::uint32_t>(like));
    if (!log_.times_us.empty()) {
      out_.times_us.push_back(log_.times_us[entry_]);
    }
    if (!log_.labels.empty()) {
      out_.labels.push_back(log_.labels[like]);
    }
  }

  void gain(const AllocatorEvent& event, bool of_one_block) {
    held_[event.address] = {event.size, event.stream, of_one_block};
    put(event, entry_);
    for (auto live = live_.lower_bound(event.address);
         live != live_.end() && live->first < event.address + event.size; ++live) {
      if (live->second.away) {
        live->second.away = false;
        put(live->second.alloc, live->second.entry);
      }
    }
  }

  /// [address, address + size) goes, which may be a part of what was gained, or several of them.
  void lose(const AllocatorEvent& event) {
    const Address end = event.address + event.size;
    for (auto live = live_.lower_bound(event.address); live != live_.end() && live->first < end;
         ++live) {
      if (!live->second.away) {
        send_away(live->second);
      }
    }
    bool any = false;
    auto held = held_.upper_bound(event.address);
    held = held == held_.begin() ? held : std::prev(held);
    while (held != held_.end() && held->first < end) {
      const Address begin = held->first;
      const Held old = held->second;
      const Address stop = begin + old.size;
      if (stop <= event.address) {
        ++held;
        continue;
      }
      any = true;
      held = held_.erase(held);
      if (begin < event.address) {
        held_[begin] = {event.address - begin, old.stream, old.of_one_block};
      }
      if (end < stop) {
        held_[end] = {stop - end, old.stream, old.of_one_block};
      }
    }
    if (any) {
      put(event, entry_);
    }
  }

  void send_away(Live& live) {
    AllocatorEvent gone = live.alloc;
    if (!live.dropped) {
      gone.action = Action::free_requested;
      put(gone, live.entry);
    }
    gone.action = Action::free_completed;
    put(gone, live.entry);
    live.away = true;
  }

  /// Whether [address, address + size) is held, in one piece or in neighbours.
  [[nodiscard]] bool is_held(Address address, Bytes size) const {
    const Address end = address + size;
    auto held = held_.upper_bound(address);
    if (held == held_.begin()) {
      return false;
    }
    held = std::prev(held);
    Address at = address;
    while (held != held_.end() && held->first <= at) {
      at = std::max(at, held->first + held->second.size);
      if (end <= at) {
        return true;
      }
      ++held;
    }
    return false;
  }

  void hand_out(const AllocatorEvent& event) {
    if (!is_held(event.address, event.size)) {
      AllocatorEvent around = event;
      around.action = Action::segment_alloc;
      around.size = round_up(event.size, kAlignment);
      gain(around, true);
    }
    live_[event.address] = {.alloc = event, .entry = entry_};
    put(event, entry_);
  }

  void drop(const AllocatorEvent& event) {
    const auto live = live_.find(event.address);
    if (live == live_.end()) {
      return;
    }
    live->second.dropped = true;
    if (!live->second.away) {
      put(event, entry_);
    }
  }

  void complete(const AllocatorEvent& event) {
    const auto live = live_.find(event.address);
    if (live == live_.end()) {
      return;
    }
    if (!live->second.away) {
      put(event, entry_);
    }
    live_.erase(live);
    const auto held = held_.find(event.address);
    if (held != held_.end() && held->second.of_one_block) {
      AllocatorEvent around = event;
      around.action = Action::segment_free;
      around.size = held->second.size;
      held_.erase(held);
      put(around, entry_);
    }
  }

  void finish() {
    for (const auto& [address, held] : held_) {
      RecordedSegment* last = out_.segments.empty() ? nullptr : &out_.segments.back();
      if (all_mapped_ && last != nullptr && last->stream == held.stream &&
          last->address + last->size == address) {
        last->size += held.size;
        continue;
      }
      out_.segments.push_back({.address = address,
                               .size = held.size,
                               .stream = held.stream,
                               .expandable = all_mapped_});
    }
    for (RecordedSegment& segment : out_.segments) {
      put_blocks(segment);
    }
  }

  void put_blocks(RecordedSegment& segment) const {
    const Address end = segment.address + segment.size;
    Address at = segment.address;
    const auto gap = [&](Address to) {
      if (at < to) {
        segment.blocks.push_back({.size = to - at});
        at = to;
      }
    };
    bool small = true;
    for (auto live = live_.lower_bound(segment.address); live != live_.end() && live->first < end;
         ++live) {
      if (live->second.away) {
        continue;
      }
      gap(live->first);
      const auto next = std::next(live);
      const Bytes most = (next != live_.end() && next->first < end ? next->first : end) - at;
      const Bytes requested = live->second.alloc.size;
      const Bytes known = block_sizes_.empty() ? Bytes{} : block_sizes_[live->second.entry];
      const Bytes size = known > Bytes{} ? known : round_up(requested, kAlignment);
      segment.blocks.push_back({.size = std::clamp(size, Bytes{1}, most),
                                .requested = std::min(requested, most),
                                .allocated = !live->second.dropped,
                                .active = true});
      at = at + segment.blocks.back().size;
      small = small && requested <= kSmallRequest;
    }
    small = small && !segment.blocks.empty();
    gap(end);
    constexpr Bytes kSmallSegment = 2_MiB;
    segment.small_pool = segment.expandable ? small : segment.size <= kSmallSegment;
  }

  const Recording& log_;
  std::span<const Bytes> block_sizes_;
  Recording out_{};
  std::vector<std::uint32_t> source_{};
  bool all_mapped_{};
  std::size_t entry_{};
  std::map<Address, Held> held_{};
  std::map<Address, Live> live_{};  ///< handed out and not yet free again
};

}  // namespace

RunSnapshot run_snapshot(const Recording& log, std::span<const Bytes> block_sizes) {
  check(log.segments.empty(), "a log without segments of its own");
  return Layout{log, block_sizes}.run();
}

}  // namespace peakcast
