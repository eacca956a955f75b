// A run that starts in the middle: the heap that a recording began with.
#include <algorithm>
#include <deque>
#include <map>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "allocators/pytorch/caching_allocator.hpp"
#include "sim/core/check.hpp"
#include "sim/trace/recorded_start.hpp"

namespace peakcast::pytorch {
namespace {

constexpr std::uint64_t kMinBlock = 512;
constexpr std::uint64_t kSmallSize = 1ULL << 20;
constexpr std::uint64_t kSmallPage = 2ULL << 20;
constexpr std::size_t kMostPools = 256;

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
std::uint64_t u(Bytes size) { return static_cast<std::uint64_t>(size.count()); }
constexpr std::int64_t s(std::uint64_t value) { return static_cast<std::int64_t>(value); }
constexpr Bytes bytes(std::uint64_t value) { return Bytes{s(value)}; }

bool equal(const Settings& a, const Settings& b) {
  return std::tie(a.max_split_size, a.max_non_split_rounding, a.large_segment_size,
                  a.garbage_collection_threshold, a.roundup_power2_divisions,
                  a.expandable_segments) ==
         std::tie(b.max_split_size, b.max_non_split_rounding, b.large_segment_size,
                  b.garbage_collection_threshold, b.roundup_power2_divisions,
                  b.expandable_segments);
}

}  // namespace

/// What malloc makes of a free block of `room` bytes (see should_split()).
Bytes CachingAllocator::block_size(Bytes requested, Bytes room,
                                   const RecordedSegment& where) const {
  const std::uint64_t size = round_size(u(requested));
  if (size > u(room)) {
    return room;
  }
  const std::uint64_t rest = u(room) - size;
  const bool splits = where.small_pool || where.expandable
                          ? rest >= kMinBlock
                          : size < settings_.max_split_size && rest > kSmallSize;
  return splits ? bytes(size) : room;
}

std::optional<std::string> CachingAllocator::cannot_hold(
    const std::vector<RecordedSegment>& segments) const {
  std::uint64_t sum = 0;
  std::uint32_t pools = 0;
  for (const RecordedSegment& segment : segments) {
    sum += up(u(segment.size), kSmallPage);
    pools = std::max(pools, segment.pool);
    if ((segment.address + segment.size).value() >> 47 != 0) {
      return fmt::format("the segment at {:#x} is beyond 47 bits", segment.address.value());
    }
    for (const RecordedBlock& block : segment.blocks) {
      if (block.size.count() % s(kMinBlock) != 0) {
        return fmt::format("a block of {} bytes is no multiple of 512", block.size.count());
      }
    }
  }
  if (2 * std::size_t{pools} + pools_.size() > kMostPools) {
    return fmt::format("{} private pools", pools);
  }
  if (sum > u(device_.free_memory())) {
    return fmt::format("{} bytes were reserved, the card has {}", sum,
                       device_.free_memory().count());
  }
  if (limit_ != kNoLimit && sum > limit_) {
    return fmt::format("{} bytes were reserved, the limit is {}", sum, limit_);
  }
  return std::nullopt;
}

/// The pool of a segment; private ones are made when they are first met.
std::uint8_t CachingAllocator::resume_pool(const RecordedSegment& segment) {
  const std::uint8_t kind = segment.small_pool ? 0 : 1;
  if (segment.pool == 0) {
    return kind;
  }
  while (resumed_pools_.size() < segment.pool) {
    resumed_pools_.push_back(find_private(create_pool({}))->small);
  }
  return static_cast<std::uint8_t>(resumed_pools_[segment.pool - 1] + kind);
}

/// The blocks of a segment, or of a mapped run of an expandable one, behind block `before`; gives
/// the last of them.
std::uint32_t CachingAllocator::resume_blocks(const RecordedSegment& segment, std::uint8_t pool,
                                              std::uint32_t reservation, std::uint32_t before,
                                              std::vector<BlockId>& in_use) {
  const auto stream = static_cast<std::uint16_t>(segment.stream.value);
  while (pools_[pool].free.size() <= stream) {
    pools_[pool].free.push_back(std::make_unique<FreeIndex>());
  }
  const std::size_t kind = pool % 2;
  const bool expandable = reservation != kNone;
  const bool used = std::any_of(segment.blocks.begin(), segment.blocks.end(),
                                [](const RecordedBlock& block) { return block.active; });
  const bool segment_in_use = !expandable && (used || segment.blocks.size() > 1);
  if (segment_in_use) {
    books_.begin_use(kind, segment.size.count());
  }
  std::uint64_t at = segment.address.value();
  for (const RecordedBlock& recorded : segment.blocks) {
    Block block{};
    block.address = at;
    block.size = u(recorded.size);
    block.home = {stream, pool};
    block.segment = reservation;
    block.previous = before;
    block.state = recorded.active ? State::allocated : State::free;
    block.requested = u(recorded.requested);
    before = add_block(block);
    if (segment_in_use && at != segment.address.value()) {
      books_.split(kind);
    }
    if (recorded.active) {
      if (expandable) {
        books_.begin_use(kind, recorded.size.count());
      }
      books_.rise(kind, recorded.size.count(), recorded.requested.count());
      if (block.size >= settings_.max_split_size) {
        oversize_allocations_.increase(1);
      }
      in_use.push_back(BlockId{before});
    } else if (segment_in_use) {
      books_.begin_rest(kind, recorded.size.count());
    }
    at += block.size;
  }
  held_ += u(segment.size);
  PrivatePool* owner = pools_[pool].owner;
  if (owner != nullptr) {
    ++owner->device_allocations;
  }
  return before;
}

void CachingAllocator::resume_segment(const RecordedSegment& segment,
                                      std::vector<BlockId>& in_use) {
  check(device_.resume_acquired(segment.address, segment.size), "the card was asked before");
  const std::uint8_t pool = resume_pool(segment);
  static_cast<void>(resume_blocks(segment, pool, kNone, kNoBlock, in_use));
  Block whole{};
  whole.size = u(segment.size);
  whole.home.pool = pool;
  count_segment(whole, 1);
}

void CachingAllocator::resume_reservation(const RecordedReservation& reservation,
                                          std::vector<BlockId>& in_use) {
  const RecordedSegment& first = *reservation.runs.front();
  check(device_.resume_reserved(Address{reservation.base}, bytes(reservation.size)),
        "a card that takes segments takes reservations");
  const auto segment_id = static_cast<std::uint32_t>(expandable_segments_.size());
  const std::uint8_t pool = resume_pool(first);
  const auto stream = static_cast<std::uint16_t>(first.stream.value);
  expandable_segments_.push_back({.base = reservation.base,
                                  .size = reservation.size,
                                  .page = reservation.page,
                                  .stream = stream,
                                  .pages = {},
                                  .live = true});
  ExpandableSegment& segment = expandable_segments_.back();
  segment.pages.assign(segment.size / segment.page, kNone);
  std::uint32_t last = kNoBlock;
  std::uint64_t at = segment.base;
  const auto put_gap = [&](std::uint64_t until) {
    if (at == until) {
      return;
    }
    Block gap{};
    gap.address = at;
    gap.size = until - at;
    gap.home = {stream, pool};
    gap.segment = segment_id;
    gap.state = State::unmapped;
    gap.previous = last;
    last = add_block(gap);
  };
  for (const RecordedSegment* run : reservation.runs) {
    const std::uint64_t begin = run->address.value();
    const std::uint64_t end = begin + u(run->size);
    put_gap(begin);
    for (std::uint64_t page = begin; page < end; page += segment.page) {
      const auto physical = device_.resume_mapped(Address{page}, bytes(segment.page));
      check(physical.has_value(), "the card has room for what was reserved");
      segment.pages[(page - segment.base) / segment.page] = physical->value;
    }
    last = resume_blocks(*run, pool, segment_id, last, in_use);
    books_.change_reserved(pool % 2, run->size.count());
    at = end;
  }
  put_gap(segment.base + segment.size);
}

/// Mapped runs of one stream and pool belong to one reservation as far as one is long. It begins
/// with the lowest page that the recording ever mapped there: pages are mapped from its front on.
std::vector<CachingAllocator::RecordedReservation> CachingAllocator::reservations_of(
    const std::vector<RecordedSegment>& segments, const Recording& recording) const {
  const auto total = u(device_.spec().total);
  std::map<std::tuple<std::uint32_t, std::uint32_t, bool>, RecordedReservation*> newest;
  std::deque<RecordedReservation> found;
  for (const RecordedSegment& run : segments) {
    if (!run.expandable) {
      continue;
    }
    RecordedReservation*& last = newest[{run.stream.value, run.pool, run.small_pool}];
    const std::uint64_t end = (run.address + run.size).value();
    if (last == nullptr || end > last->base + last->size) {
      const std::uint64_t page = run.small_pool ? kSmallPage : settings_.large_segment_size;
      const std::uint64_t size = std::max(up(total + total / 8, page), up(u(run.size), page));
      last = &found.emplace_back();
      last->base = run.address.value();
      last->size = size;
      last->page = page;
    }
    last->runs.push_back(&run);
  }
  std::vector<RecordedReservation> out{found.begin(), found.end()};
  for (RecordedReservation& one : out) {
    const std::uint64_t last_end = (one.runs.back()->address + one.runs.back()->size).value();
    std::uint64_t floor = last_end > one.size ? last_end - one.size : 0;
    for (const RecordedReservation& other : out) {
      const std::uint64_t end = (other.runs.back()->address + other.runs.back()->size).value();
      floor = end <= one.base ? std::max(floor, end) : floor;
    }
    for (const AllocatorEvent& event : recording.events) {
      const std::uint64_t at = event.address.value();
      // The small pool maps one page at a time, the large one larger pages.
      const bool same_pool = (u(event.size) == kSmallPage) == (one.page == kSmallPage);
      if (event.action == Action::segment_map && event.stream == one.runs.front()->stream &&
          same_pool && at < one.base && at >= floor && (one.base - at) % one.page == 0) {
        one.base = at;
      }
    }
  }
  return out;
}

Expected<std::vector<BlockId>> CachingAllocator::resume(const Trace& trace) {
  check(blocks_.size() == 1 && trace.recording.has_value(), "resume() is the first call");
  const Recording& recording = *trace.recording;
  const auto recorded = parse_settings(recording.alloc_conf, version_);
  if (!recorded || !equal(*recorded, settings_)) {
    return invalid_input("the settings are others than were recorded");
  }
  const auto start =
      recorded_start(recording, [this](Bytes requested, Bytes room, const RecordedSegment& where) {
        return block_size(requested, room, where);
      });
  if (!start) {
    return start.error();
  }
  if (auto why = cannot_hold(*start)) {
    return invalid_input(*std::move(why));
  }
  const std::vector<RecordedReservation> reservations = reservations_of(*start, recording);
  for (const RecordedReservation& reservation : reservations) {
    for (const RecordedSegment* run : reservation.runs) {
      if ((run->address.value() - reservation.base) % reservation.page != 0 ||
          u(run->size) % reservation.page != 0) {
        return invalid_input(fmt::format("the run at {:#x} is not of whole pages of {} bytes",
                                         run->address.value(), reservation.page));
      }
    }
    if ((reservation.base + reservation.size) >> 47 != 0) {
      return invalid_input(fmt::format("the run at {:#x} is beyond 47 bits", reservation.base));
    }
  }
  std::int64_t in_use = 0;
  for (const RecordedSegment& segment : *start) {
    in_use += std::count_if(segment.blocks.begin(), segment.blocks.end(),
                            [](const RecordedBlock& block) { return block.active; });
  }
  const auto preexisting = std::count_if(trace.ops.begin(), trace.ops.end(), [](const Op& op) {
    return op.kind == OpKind::allocate && (op.flags & kPreexisting) != 0;
  });
  if (in_use != preexisting) {
    return invalid_input(
        fmt::format("{} blocks were in use, the program knows {}", in_use, preexisting));
  }
  std::vector<BlockId> blocks;
  for (const RecordedSegment& segment : *start) {
    if (!segment.expandable) {
      resume_segment(segment, blocks);
    }
  }
  for (const RecordedReservation& reservation : reservations) {
    resume_reservation(reservation, blocks);
  }
  std::sort(blocks.begin(), blocks.end(), [this](BlockId a, BlockId b) {
    return blocks_[a.value].address < blocks_[b.value].address;
  });
  note_what_is_plain();
  books_.reset_peaks();
  return blocks;
}

}  // namespace peakcast::pytorch
