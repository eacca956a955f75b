#include "sim/trace/derive_program.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/core/slots.hpp"
#include "sim/trace/address_map.hpp"
#include "sim/trace/recorded_start.hpp"

namespace peakcast {
namespace {

bool is_release(Action action) {
  return action == Action::segment_free || action == Action::segment_unmap;
}
bool is_growth(Action action) {
  return action == Action::segment_alloc || action == Action::segment_map;
}

std::string hex(std::uint64_t value) {
  std::array<char, 24> text{};
  const int length =
      std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(value));
  return {text.data(), static_cast<std::size_t>(length)};
}

struct Preexisting {
  Bytes size{};
  StreamId stream{};
  bool pending{};  ///< dropped already, and held by a stream
};

/// What lived before the first entry, by address: whatever is freed without an alloc, and whatever
/// is in use at the end without one.
std::map<Address, Preexisting> preexisting_buffers(const Recording& recording) {
  std::map<Address, Preexisting> found;
  // Live addresses, and those that wait for their free_completed.
  std::unordered_map<std::uint64_t, bool> live;
  const bool tells_requests =
      std::any_of(recording.events.begin(), recording.events.end(),
                  [](const AllocatorEvent& e) { return e.action == Action::free_requested; });
  for (const AllocatorEvent& event : recording.events) {
    const auto known = live.find(event.address.value());
    switch (event.action) {
      case Action::alloc:
        live[event.address.value()] = true;
        break;
      case Action::free_requested:
        if (known == live.end()) {
          found.try_emplace(event.address, Preexisting{event.size, event.stream, false});
        }
        live[event.address.value()] = false;
        break;
      case Action::free_completed:
        if (known == live.end()) {
          found.try_emplace(event.address, Preexisting{event.size, event.stream, tells_requests});
        } else {
          live.erase(known);
        }
        break;
      case Action::segment_alloc:
      case Action::segment_free:
      case Action::segment_map:
      case Action::segment_unmap:
      case Action::oom:
      case Action::snapshot:
        break;
    }
  }
  for (const RecordedSegment& segment : recording.segments) {
    Address address = segment.address;
    for (const RecordedBlock& block : segment.blocks) {
      if (block.active && !live.contains(address.value())) {
        const Bytes size = block.requested > Bytes{} ? block.requested : block.size;
        found.try_emplace(address, Preexisting{size, segment.stream, !block.allocated});
      }
      address = address + block.size;
    }
  }
  return found;
}

class Derivation {
 public:
  explicit Derivation(Trace& trace) : trace_{trace}, recording_{*trace.recording} {
    const auto figure = [&](std::string_view name) -> std::optional<std::int64_t> {
      for (const RecordedFigure& candidate : recording_.final_statistics) {
        if (candidate.name == name) {
          return candidate.value;
        }
      }
      return std::nullopt;
    };
    // Garbage collection and the release of oversize blocks (which needs max_split_size_mb) are not
    // counted as retries.
    const auto sets = [&](std::string_view key) {
      return recording_.alloc_conf.find(key) != std::string::npos;
    };
    collects_ = sets("garbage_collection_threshold");
    expands_ = sets("expandable_segments");
    only_empty_cache_releases_ =
        figure("num_alloc_retries") == 0 && !collects_ && !sets("max_split_size_mb");
  }

  std::optional<BadEvent> run(bool head_may_be_lost) {
    trace_.ops.reserve(recording_.events.size());
    recording_.event_of_op.reserve(recording_.events.size());
    if (head_may_be_lost) {
      allocate_preexisting();
      const std::optional<Bytes> start = reserved_at_start(recording_);
      reserved_ = start ? start->count() : kLargestSum + 1;
    }
    const std::vector<AllocatorEvent>& events = recording_.events;
    for (std::size_t i = 0; i < events.size() && !fault_; ++i) {
      const AllocatorEvent& event = events[i];
      switch (event.action) {
        case Action::alloc:
          close_group(i, false);
          allocate(i);
          group_ = i + 1;
          break;
        case Action::oom:
          close_group(i, true);
          attempt(i);
          group_ = i + 1;
          break;
        case Action::free_requested:
          close_group(i, false);
          if (i + 1 < events.size() && events[i + 1].action == Action::free_completed &&
              events[i + 1].address == event.address) {
            free_at_once(i);
            ++i;
          } else {
            free_with_hold(i);
          }
          group_ = i + 1;
          break;
        case Action::free_completed: {
          const auto slot = live_.find(event.address.value());
          if (slot && pending_of_slot_[*slot] == 0) {
            close_group(i, false);
            free_at_once(i);
            group_ = i + 1;
          } else if (!slot) {
            fail(i, "completes the free of " + hex(event.address.value()) + ", which is not live");
          }
          break;  // else: part of the group
        }
        case Action::segment_alloc:
        case Action::segment_free:
        case Action::segment_map:
        case Action::segment_unmap:
        case Action::snapshot:
          break;
      }
    }
    if (!fault_) {
      close_group(events.size(), false);
    }
    finish();
    return std::move(fault_);
  }

 private:
  void put(const Op& op, std::size_t event) {
    trace_.ops.push_back(op);
    recording_.event_of_op.push_back(static_cast<std::uint32_t>(event));
  }

  void fail(std::size_t event, std::string why) {
    if (!fault_) {
      fault_ = BadEvent{event, std::move(why)};
    }
  }

  /// A fresh or used slot for a buffer at `address`; the last that was given back comes first, so
  /// that slots stay few and warm.
  std::optional<std::uint32_t> take_slot(Address address) {
    const std::uint32_t slot = slots_.peek();
    if (!live_.insert(address.value(), slot)) {
      return std::nullopt;
    }
    pending_of_slot_.resize(slots_.end());
    return slots_.take();
  }

  bool add_to_sum(std::size_t event, Bytes size) {
    sum_ += size.count();
    if (sum_ > kLargestSum) {
      fail(event, "the sizes add up to more than 2 EiB");
      return false;
    }
    return true;
  }

  void allocate(std::size_t i) {
    const AllocatorEvent& event = recording_.events[i];
    const auto slot = take_slot(event.address);
    if (!slot) {
      fail(i, "allocates " + hex(event.address.value()) + ", which is live already");
      return;
    }
    if (add_to_sum(i, event.size)) {
      put({event.size.count(), *slot, stream(event), OpKind::allocate, 0}, i);
    }
  }

  void attempt(std::size_t i) {
    const AllocatorEvent& event = recording_.events[i];
    if (!add_to_sum(i, event.size)) {
      return;
    }
    const std::uint32_t slot = slots_.peek();
    pending_of_slot_.resize(slots_.end());
    put({event.size.count(), slot, stream(event), OpKind::allocate, kAttempt}, i);
  }

  void free_at_once(std::size_t i) {
    const AllocatorEvent& event = recording_.events[i];
    const auto slot = live_.take(event.address.value());
    if (!slot || pending_of_slot_[*slot] != 0) {
      fail(i, "frees " + hex(event.address.value()) + ", which is not live");
      return;
    }
    slots_.give_back(*slot);
    put({0, *slot, stream(event), OpKind::free, 0}, i);
  }

  void free_with_hold(std::size_t i) {
    const AllocatorEvent& event = recording_.events[i];
    const auto slot = live_.find(event.address.value());
    if (!slot || pending_of_slot_[*slot] != 0) {
      fail(i, "frees " + hex(event.address.value()) + ", which is not live");
      return;
    }
    put({0, *slot, unknown_stream(), OpKind::record_stream, 0}, i);
    put({0, *slot, stream(event), OpKind::free, 0}, i);
    pending_of_slot_[*slot] = 1;
    ++pending_;
  }

  /// Whether what was gained after the last release would have fitted under the limit before any:
  /// then no request can have failed, and it was not a failure that released. Not known when there
  /// is no limit, when garbage collection releases unasked, or with expandable segments, where the
  /// failed attempt may have wanted to grow by more.
  [[nodiscard]] bool grown_within_limit(std::size_t end, std::size_t last_release) const {
    if (!recording_.limit || collects_ || expands_) {
      return false;
    }
    std::int64_t most = reserved_;
    for (std::size_t i = last_release + 1; i < end && most <= kLargestSum; ++i) {
      most += is_growth(recording_.events[i].action) ? recording_.events[i].size.count() : 0;
    }
    return most <= recording_.limit->count();
  }

  /// The most that a request is rounded up to.
  [[nodiscard]] std::int64_t most_rounded(Bytes request) const {
    const bool divides =
        recording_.alloc_conf.find("roundup_power2_divisions") != std::string::npos;
    return divides ? 2 * request.count() : round_up(request, Bytes{512}).count();
  }

  /// Whether a segment that was released before the allocation at `end` could have served it: then
  /// the request did not fail, for it would have had that segment.
  [[nodiscard]] bool released_would_do(std::size_t end) const {
    if (end == recording_.events.size() || recording_.events[end].action != Action::alloc ||
        recording_.alloc_conf.find("max_split_size_mb") != std::string::npos) {
      return false;
    }
    constexpr std::int64_t kSmall = 1 << 20;
    constexpr std::int64_t kSmallSegment = 2 << 20;
    const AllocatorEvent& request = recording_.events[end];
    const bool small = request.size.count() <= kSmall;
    const auto serves = [&](std::size_t i) {
      const AllocatorEvent& segment = recording_.events[i];
      const bool fits = small ? segment.size.count() == kSmallSegment
                              : segment.size.count() > kSmallSegment &&
                                    segment.size.count() >= most_rounded(request.size);
      const Address segment_end = segment.address + segment.size;
      // What a stream held until just now could not be had.
      return segment.action == Action::segment_free && segment.stream == request.stream && fits &&
             std::none_of(recording_.events.begin() + static_cast<std::ptrdiff_t>(group_),
                          recording_.events.begin() + static_cast<std::ptrdiff_t>(i),
                          [&](const AllocatorEvent& e) {
                            return e.action == Action::free_completed &&
                                   e.address >= segment.address && e.address < segment_end;
                          });
    };
    for (std::size_t i = group_; i < end; ++i) {
      if (serves(i)) {
        return true;
      }
    }
    return false;
  }

  void count_reserved(std::size_t end) {
    for (std::size_t i = group_; i < end; ++i) {
      const AllocatorEvent& event = recording_.events[i];
      if (is_growth(event.action) && reserved_ <= kLargestSum) {
        reserved_ += event.size.count();
      } else if (is_release(event.action) && reserved_ <= kLargestSum) {
        reserved_ -= event.size.count();
      }
    }
    if (reserved_ < 0) {
      reserved_ = kLargestSum + 1;  // a segment from before the recording: no longer known
    }
  }

  /// Entries [group_, end) are the allocator's own, before the program entry at `end`.
  void close_group(std::size_t end, bool before_oom) {
    if (group_ == end) {
      return;
    }
    const std::vector<AllocatorEvent>& events = recording_.events;
    bool releases = false;
    std::size_t last_release = 0;
    bool grows_after = before_oom;
    for (std::size_t i = group_; i < end; ++i) {
      if (is_release(events[i].action)) {
        releases = true;
        last_release = i;
        grows_after = before_oom;
      } else if (is_growth(events[i].action)) {
        grows_after = true;
      }
    }
    const bool fits =
        !before_oom && (grown_within_limit(end, last_release) || released_would_do(end));
    const bool empties = releases && (!grows_after || only_empty_cache_releases_ || fits);
    count_reserved(end);
    bool emptied = false;
    bool released = false;
    for (std::size_t i = group_; i < end && !fault_; ++i) {
      if (is_release(events[i].action)) {
        released = true;
        if (empties && !emptied) {
          emptied = true;
          put({0, 0, 0, OpKind::empty_cache, 0}, last_release + 1);
        }
      } else if (events[i].action == Action::free_completed) {
        std::size_t run_end = i;
        while (run_end < end && events[run_end].action == Action::free_completed) {
          ++run_end;
        }
        const bool leaves_none = pending_ == run_end - i;
        const bool then_releases = run_end < end ? is_release(events[run_end].action) : before_oom;
        const bool at_sync = released || (leaves_none && then_releases);
        for (; i < run_end && !fault_; ++i) {
          // The first entry of all is the second half of a free at once: nothing waited for it.
          complete(i, at_sync && i > 0);
        }
        --i;
      }
    }
  }

  void complete(std::size_t i, bool at_sync) {
    const AllocatorEvent& event = recording_.events[i];
    const auto slot = live_.take(event.address.value());
    if (!slot || pending_of_slot_[*slot] == 0) {
      fail(i, "completes the free of " + hex(event.address.value()) + ", which is not pending");
      return;
    }
    pending_of_slot_[*slot] = 0;
    --pending_;
    slots_.give_back(*slot);
    put({0, *slot, stream(event), OpKind::complete, at_sync ? kAtSync : std::uint8_t{0}}, i);
  }

  void allocate_preexisting() {
    std::vector<std::uint32_t> pending;  // slots
    for (const auto& [address, buffer] : preexisting_buffers(recording_)) {
      const auto slot = take_slot(address);
      check(slot.has_value(), "addresses of a map are distinct");
      if (!add_to_sum(0, buffer.size)) {
        return;
      }
      put({buffer.size.count(), *slot, static_cast<std::uint16_t>(buffer.stream.value),
           OpKind::allocate, kPreexisting},
          kNoEvent);
      recording_.head_lost = true;
      if (buffer.pending) {
        pending.push_back(*slot);
      }
    }
    for (const std::uint32_t slot : pending) {
      put({0, slot, unknown_stream(), OpKind::record_stream, 0}, kNoEvent);
      put({0, slot, 0, OpKind::free, 0}, kNoEvent);
      pending_of_slot_[slot] = 1;
      ++pending_;
    }
  }

  static std::uint16_t stream(const AllocatorEvent& event) {
    return static_cast<std::uint16_t>(event.stream.value);
  }

  std::uint16_t unknown_stream() {
    if (!unknown_stream_) {
      auto at = std::find(trace_.streams.begin(), trace_.streams.end(), kUnknownStream);
      unknown_stream_ = static_cast<std::uint16_t>(at - trace_.streams.begin());
      if (at == trace_.streams.end()) {
        trace_.streams.push_back(kUnknownStream);
      }
    }
    return *unknown_stream_;
  }

  void finish() {
    trace_.buffer_slots = static_cast<std::uint32_t>(pending_of_slot_.size());
    const auto per_op = [&]<class T>(const std::vector<T>& per_event, std::vector<T>& out,
                                     bool carry) {
      if (per_event.empty()) {
        return;
      }
      out.reserve(trace_.ops.size());
      // An op without an entry happens when the next entry does: preexisting buffers at the start.
      T last = carry ? per_event.front() : T{};
      for (const std::uint32_t event : recording_.event_of_op) {
        const bool has_entry = event < per_event.size();
        if (has_entry) {
          last = per_event[event];
        }
        out.push_back(has_entry || carry ? last : T{});
      }
    };
    per_op(recording_.times_us, trace_.times_us, true);
    per_op(recording_.labels, trace_.labels, false);
  }

  Trace& trace_;
  Recording& recording_;
  AddressMap live_{};                            // live or pending address -> slot
  std::vector<std::uint8_t> pending_of_slot_{};  // 1: dropped, held by another stream
  Numbers slots_{};
  std::size_t pending_{};
  std::size_t group_{};  // first entry since the last program entry
  std::int64_t sum_{};
  std::optional<std::uint16_t> unknown_stream_{};
  bool collects_{};  // garbage collection is on
  bool expands_{};   // expandable segments may be on
  bool only_empty_cache_releases_{};
  std::int64_t reserved_{};  // beyond kLargestSum: not known
  std::optional<BadEvent> fault_{};
};

}  // namespace

std::optional<BadEvent> derive_program(Trace& trace, bool head_may_be_lost) {
  check(trace.recording.has_value(), "a recording to derive from");
  trace.ops.clear();
  trace.times_us.clear();
  trace.labels.clear();
  trace.recording->event_of_op.clear();
  return Derivation{trace}.run(head_may_be_lost);
}

}  // namespace peakcast
