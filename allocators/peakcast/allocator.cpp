#include "allocators/peakcast/allocator.hpp"

#include <algorithm>
#include <limits>

#include "sim/core/check.hpp"

namespace peakcast::near_floor {
namespace {

/// Address space for homes, as a multiple of the card: memory that goes back leaves a gap, and new
/// memory finds one, even if they differ in size.
constexpr std::int64_t kHomesPerCard = 8;
/// How many periods back a place is looked for, and to which part of the largest live sum as much
/// must live as then.
constexpr std::uint64_t kPeriods = 3;
constexpr std::uint64_t kSteady = 256;
/// Mappings that views may have, as a multiple of the handles and at least: see bound_mappings().
constexpr std::int64_t kMappingsPerHandle = 16;
constexpr std::int64_t kLeastMappings = 16'384;

Bytes bytes(std::uint64_t count) { return Bytes{static_cast<std::int64_t>(count)}; }
std::uint64_t count(Bytes size) { return static_cast<std::uint64_t>(size.count()); }
std::uint64_t up(std::uint64_t size, std::uint64_t unit) { return (size + unit - 1) / unit * unit; }
std::uint32_t units(std::uint64_t size) {
  return static_cast<std::uint32_t>(size / Extents::kUnit);
}

/// A driver without address space for twice its card serves nobody: everything is out of memory.
std::uint64_t reserve_homes(Device& device, std::uint64_t size) {
  const std::optional<Address> address = device.reserve(bytes(size));
  return address ? address->value() : 0;
}

}  // namespace

NearFloorAllocator::NearFloorAllocator(Device& device, Streams& streams, Tuning tuning,
                                       std::optional<Bytes> limit)
    : device_{device},
      streams_{streams},
      tuning_{tuning},
      limit_{limit ? count(*limit) : std::numeric_limits<std::uint64_t>::max()},
      granularity_{count(device.spec().granularity)},
      total_{count(device.spec().total)},
      begin_{reserve_homes(device, up(count(device.spec().total), granularity_) * kHomesPerCard)},
      extents_{begin_, StreamOrder::merge},
      handles_{device, begin_, granularity_},
      views_{device, handles_},
      stitcher_{extents_, handles_},
      order_{streams} {}

NearFloorAllocator::~NearFloorAllocator() {
  for (const std::deque<Pending>& queue : pending_) {
    for (const Pending& pending : queue) {
      streams_.forget(pending.event);
    }
  }
}

// ------------------------------------------------------------------------------------------------
// Where a block goes

std::uint64_t NearFloorAllocator::part(std::int64_t per_million) const {
  return largest_live_ / 1'000'000 * static_cast<std::uint64_t>(per_million);
}

std::uint32_t NearFloorAllocator::take(std::uint32_t extent, std::uint64_t home, std::uint64_t size,
                                       std::uint16_t stream) {
  order_.before_use(stream, extents_[extent].stamp);
  return extents_.take(extent, home, size);
}

std::uint32_t NearFloorAllocator::take_block(std::uint32_t extent, std::uint64_t home,
                                             std::uint64_t size, std::uint16_t stream) {
  const std::uint32_t block = take(extent, home, size, stream);
  extents_[block].view = Views::kNone;
  extents_[block].address = home;
  return block;
}

std::uint32_t NearFloorAllocator::place_in_view(std::uint32_t view, std::uint64_t offset,
                                                std::uint64_t size, std::uint16_t stream) {
  views_.ranges(view, offset, size, parts_);
  holes_.clear();
  for (const Range& range : parts_) {
    holes_.push_back(extents_.free_at(range.home, range.size));
    if (holes_.back() == kNone) {
      return kNone;
    }
  }
  std::uint32_t head = kNone;
  std::uint32_t last = kNone;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Range& range = parts_[i];
    // Where it was found, unless another part was taken from the same hole.
    const std::uint32_t hole = extents_.free_at(range.home, range.size, holes_[i]);
    const std::uint32_t piece = take(hole, range.home, range.size, stream);
    if (head == kNone) {
      head = piece;
    } else {
      extents_[last].piece = piece;
    }
    last = piece;
  }
  views_.enter(view);
  extents_[head].view = view;
  extents_[head].address = views_.address(view) + offset;
  return head;
}

std::uint32_t NearFloorAllocator::place_again(const Place& place, std::uint64_t size,
                                              std::uint16_t stream) {
  if (place.in_view) {
    const std::uint32_t view = place.where;
    return views_.holds(view, place.address, size)
               ? place_in_view(view, place.address - views_.address(view), size, stream)
               : kNone;
  }
  const std::uint32_t extent = extents_.free_at(place.address, size, place.where);
  return extent == kNone ? kNone : take_block(extent, place.address, size, stream);
}

std::uint32_t NearFloorAllocator::place_as_before(std::uint64_t size, std::uint16_t stream) {
  if (!repeats_.steady(units(largest_live_ / kSteady))) {
    return kNone;
  }
  // A block that outlives a period, or lets its successor come before it goes, alternates.
  bool known = false;
  for (std::uint64_t periods = 1; periods <= kPeriods; ++periods) {
    if (const Place* const earlier = repeats_.earlier(periods)) {
      known = true;
      if (const std::uint32_t block = place_again(*earlier, size, stream); block != kNone) {
        return block;
      }
    }
  }
  return known ? place_apart(size, stream) : kNone;
}

/// Into the smallest hole that no request will be put into as before while this block lives: what
/// cannot repeat disturbs nothing that can, and the next period repeats more.
std::uint32_t NearFloorAllocator::place_apart(std::uint64_t size, std::uint16_t stream) {
  extents_.settle();
  awaited_.clear();
  repeats_.upcoming([&](const Place& place, std::uint32_t length) {
    const std::uint64_t bytes_long = std::uint64_t{length} * Extents::kUnit;
    if (!place.in_view) {
      // What lies in no hole that is large enough is in nobody's way.
      const Extents::Extent& there = extents_[place.where];
      const bool known = there.state != Extents::State::none && there.home <= place.address &&
                         place.address + bytes_long <= there.end();
      if (!known || (there.state == Extents::State::free && there.size >= size)) {
        awaited_.push_back({place.address, bytes_long});
      }
    } else if (views_.holds(place.where, place.address, bytes_long)) {
      views_.ranges(place.where, place.address - views_.address(place.where), bytes_long, parts_);
      awaited_.insert(awaited_.end(), parts_.begin(), parts_.end());
    }
  });
  std::sort(awaited_.begin(), awaited_.end(),
            [](const Range& a, const Range& b) { return a.home < b.home; });
  std::uint32_t best = kNone;
  Range found{0, std::numeric_limits<std::uint64_t>::max()};
  // Ends of all ranges up to each, so that a long early one is not missed.
  reach_.resize(awaited_.size());
  std::uint64_t reach = 0;
  for (std::size_t i = 0; i < awaited_.size(); ++i) {
    reach = std::max(reach, awaited_[i].home + awaited_[i].size);
    reach_[i] = reach;
  }
  extents_.for_each_free(size, [&](std::uint32_t id) {
    const Extents::Extent& extent = extents_[id];
    auto next = static_cast<std::size_t>(
        std::lower_bound(awaited_.begin(), awaited_.end(), extent.home,
                         [](const Range& range, std::uint64_t home) { return range.home < home; }) -
        awaited_.begin());
    std::uint64_t begin = next == 0 ? extent.home : std::max(extent.home, reach_[next - 1]);
    const auto judge = [&](std::uint64_t end) {
      const Range range{begin, end > begin ? end - begin : 0};
      if (range.size >= size &&
          std::pair{range.size, range.home} < std::pair{found.size, found.home}) {
        best = id;
        found = range;
      }
    };
    for (; next < awaited_.size() && awaited_[next].home < extent.end(); ++next) {
      judge(awaited_[next].home);
      begin = std::max(begin, reach_[next]);
    }
    judge(extent.end());
  });
  return best == kNone ? kNone : take_block(best, found.home, size, stream);
}

/// Notes where the present request was put.
void NearFloorAllocator::note(std::uint32_t block) {
  Extents::Extent& extent = extents_[block];
  const bool in_view = extent.view != Views::kNone;
  extent.slot = repeats_.put(
      {.address = extent.address, .where = in_view ? extent.view : block, .in_view = in_view});
}

/// Where a large block leaves more whole handles of a hole: at its begin or at its end.
std::uint64_t NearFloorAllocator::better_end(std::uint32_t hole, std::uint64_t size) const {
  const Extents::Extent& extent = extents_[hole];
  if (size < granularity_) {
    return extent.home;
  }
  const auto whole = [&](std::uint64_t begin, std::uint64_t end) -> std::uint64_t {
    const Range middle = handles_.whole_within(begin, end);
    return middle.size;
  };
  return whole(extent.home, extent.end() - size) > whole(extent.home + size, extent.end())
             ? extent.end() - size
             : extent.home;
}

std::uint32_t NearFloorAllocator::place_in_hole(std::uint64_t size, std::uint16_t stream) {
  const std::uint32_t hole = extents_.fit(size);
  return hole == kNone ? kNone : take_block(hole, better_end(hole, size), size, stream);
}

std::uint64_t NearFloorAllocator::top_hole() {
  extents_.settle();
  const Extents::Extent& last = extents_[extents_.last()];
  return last.state == Extents::State::free ? last.size : 0;
}

std::uint32_t NearFloorAllocator::place_anew(std::uint64_t size, std::uint16_t stream) {
  if (const std::uint32_t block = place_in_hole(size, stream); block != kNone) {
    return block;
  }
  // Growth behind the hole at the top, as far as the largest live sum and the slack allow.
  const std::int64_t early = is_early() ? tuning_.early_growth : 1;
  const std::uint64_t allowed = largest_live_ + part(tuning_.slack * early);
  const std::uint64_t unit =
      up(std::max(part(tuning_.growth * early), static_cast<std::uint64_t>(tuning_.growth_minimum)),
         granularity_);
  const std::uint64_t lack = up(size - std::min(top_hole(), size), granularity_);
  if (lack > 0 && handles_.held() + lack <= allowed) {
    if (grow(lack, std::min(std::max(lack, unit), allowed - handles_.held())) >= lack) {
      return place_in_hole(size, stream);
    }
  }
  if (const std::uint32_t block = stitch(size, stream); block != kNone) {
    return block;
  }
  // By what cannot be stitched. The room is counted from the best ends alone, so that now and then
  // a second step is needed.
  for (int step = 0; step < 2; ++step) {
    extents_.settle();
    const std::uint64_t room = stitcher_.room();
    const std::uint64_t more = up(size > room ? size - room : granularity_, granularity_);
    const bool in_units = handles_.held() + std::max(more, unit) <= allowed;
    const bool grown = grow(more, in_units ? std::max(more, unit) : more) >= more;
    std::uint32_t block = place_in_hole(size, stream);
    block = block == kNone ? stitch(size, stream) : block;
    if (block != kNone || !grown) {
      return block;
    }
  }
  return grow(up(size, granularity_), up(size, granularity_)) > 0 ? place_in_hole(size, stream)
                                                                  : kNone;
}

std::uint64_t NearFloorAllocator::grow(std::uint64_t size, std::uint64_t want) {
  if (begin_ == 0) {
    return 0;
  }
  want = std::max(size, want / granularity_ * granularity_);
  attempted_ = want;
  const std::uint64_t allowed = limit_ - std::min(limit_, handles_.held());
  if (want > allowed) {
    want = std::max(size, allowed / granularity_ * granularity_);
    if (want > allowed) {
      return 0;
    }
  }
  const std::uint64_t handle_size =
      up(std::max(part(tuning_.handle), static_cast<std::uint64_t>(tuning_.handle_minimum)),
         granularity_) *
      static_cast<std::uint64_t>(is_early() ? tuning_.early_handles : 1);
  const std::uint64_t home = extents_.place_for(want);
  const std::uint64_t got = handles_.create(home, want, handle_size);
  if (got == 0) {
    return 0;
  }
  extents_.add(home, got);
  ++statistics_.num_device_alloc;
  statistics_.reserved.increase(static_cast<std::int64_t>(got));
  statistics_.segments.increase(1);
  emit(Action::segment_map, Address{home}, bytes(got), StreamId{});
  return got;
}

std::uint32_t NearFloorAllocator::stitch(std::uint64_t size, std::uint16_t stream) {
  extents_.settle();
  if (const auto known = views_.find(size, extents_)) {
    return place_in_view(known->first, known->second, size, stream);
  }
  std::vector<Range> parts;
  if (!stitcher_.choose(size, parts, sequence_)) {
    return kNone;
  }
  bound_mappings();
  const std::uint32_t view = views_.over(sequence_);
  if (view == Views::kNone) {
    return kNone;
  }
  const std::uint64_t offset = parts.front().home - handles_[sequence_.front()].home;
  return place_in_view(view, offset, size, stream);
}

void NearFloorAllocator::bound_mappings() {
  const std::int64_t most = std::max(kLeastMappings, kMappingsPerHandle * handles_.count());
  if (views_.mappings() > most) {
    views_.shrink(most / 4 * 3);
  }
}

// ------------------------------------------------------------------------------------------------
// What the program calls

AllocOutcome NearFloorAllocator::allocate(const AllocRequest& request) {
  const std::uint32_t block = hand_out(request);
  if (block == kNone) [[unlikely]] {
    return fail(request);
  }
  return Placement{BlockId{block}, Address{extents_[block].address},
                   bytes(up(count(request.size), Extents::kUnit))};
}

std::uint32_t NearFloorAllocator::hand_out(const AllocRequest& request) {
  if (count(request.size) > total_) [[unlikely]] {
    attempted_ = count(request.size);
    return kNone;
  }
  if (pending_count_ > 0) [[unlikely]] {
    poll();
  }
  const auto stream = static_cast<std::uint16_t>(request.stream.value);
  order_.turn_to(stream);
  const std::uint64_t size = up(count(request.size), Extents::kUnit);
  largest_live_ = std::max(largest_live_, live_ + size);
  repeats_.next(units(size), units(live_));
  std::uint32_t block = place_as_before(size, stream);
  if (block == kNone) [[unlikely]] {
    block = place_anew(size, stream);
    if (block == kNone && pending_count_ > 0) {
      ++statistics_.num_alloc_retries;
      wait_for_pending();
      block = place_anew(size, stream);
    }
    if (block == kNone) {
      return kNone;
    }
  }
  note(block);
  live_ += size;
  allocated_ += size;
  Extents::Extent& extent = extents_[block];
  extent.requested = count(request.size);
  extent.stream = stream;
  statistics_.requested.increase(request.size.count());
  statistics_.allocated.increase(static_cast<std::int64_t>(size));
  statistics_.active.increase(static_cast<std::int64_t>(size));
  statistics_.allocations.increase(1);
  emit(Action::alloc, Address{extent.address}, request.size, request.stream);
  return block;
}

OutOfMemory NearFloorAllocator::fail(const AllocRequest& request) {
  ++statistics_.num_ooms;
  extents_.settle();
  const Bytes rounded = request.size > device_.spec().total
                            ? request.size
                            : bytes(up(count(request.size), Extents::kUnit));
  const Bytes device_free = device_.free_memory();
  emit(Action::oom, Address{count(device_free)}, rounded, request.stream);
  return OutOfMemory{.requested = request.size,
                     .rounded = rounded,
                     .attempted = bytes(attempted_),
                     .device_free = device_free,
                     .largest_free_block = bytes(stitcher_.room()),
                     .allocated = Bytes{statistics_.allocated.current},
                     .reserved = Bytes{statistics_.reserved.current}};
}

void NearFloorAllocator::deallocate(BlockId block) { take_back(block.value); }

void NearFloorAllocator::take_back(std::uint32_t block) {
  Extents::Extent& extent = extents_[block];
  check(extent.state == Extents::State::used, "deallocate of a block that is not allocated");
  std::uint64_t size = 0;
  for (std::uint32_t piece = block; piece != kNone; piece = extents_[piece].piece) {
    size += extents_[piece].size;
  }
  live_ -= size;
  freed_ += size;
  repeats_.dropped(extent.slot, units(size));
  statistics_.allocated.decrease(static_cast<std::int64_t>(size));
  statistics_.allocations.decrease(1);
  emit(Action::free_requested, Address{extent.address}, bytes(extent.requested),
       StreamId{extent.stream});
  extent.stamp = order_.let_go(extent.stream);
  if (extent.has_uses) [[unlikely]] {
    extent.state = Extents::State::pending;
    Uses& uses = uses_[block];
    for (const StreamId stream : uses.streams) {
      if (stream.value >= pending_.size()) {
        pending_.resize(std::size_t{stream.value} + 1);
      }
      pending_[stream.value].push_back({streams_.record(stream), block});
      ++pending_count_;
      ++uses.events;
    }
    return;
  }
  finish(block);
}

void NearFloorAllocator::finish(std::uint32_t block) {
  Extents::Extent& head = extents_[block];
  const Stamp stamp = head.stamp;
  const std::uint32_t view = head.view;
  std::uint64_t size = 0;
  statistics_.requested.decrease(static_cast<std::int64_t>(head.requested));
  emit(Action::free_completed, Address{head.address}, bytes(head.requested), StreamId{head.stream});
  for (std::uint32_t piece = block; piece != kNone;) {
    const std::uint32_t next = extents_[piece].piece;
    size += extents_[piece].size;
    extents_.give(piece, stamp);
    piece = next;
  }
  statistics_.active.decrease(static_cast<std::int64_t>(size));
  if (view != Views::kNone) {
    views_.leave(view);
  }
}

Served NearFloorAllocator::serve(std::span<const Op> ops, std::span<BlockId> blocks) {
  for (const Op& op : ops) {
    const auto done = static_cast<std::size_t>(&op - ops.data());
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      const AllocRequest request{.size = Bytes{op.value}, .stream = StreamId{op.stream}};
      const std::uint32_t block = hand_out(request);
      if (block == kNone) [[unlikely]] {
        return {.ops = done, .failure = fail(request)};
      }
      blocks[op.id] = BlockId{block};
    } else if (op.kind == OpKind::free && blocks[op.id] != kUnplaced) {
      take_back(blocks[op.id].value);
      blocks[op.id] = kUnplaced;
    } else {
      return {.ops = done};
    }
  }
  return {.ops = ops.size()};
}

void NearFloorAllocator::record_stream(BlockId block, StreamId stream) {
  Extents::Extent& extent = extents_[block.value];
  check(extent.state == Extents::State::used, "record_stream of a block that is not allocated");
  if (stream.value == extent.stream) {
    return;
  }
  Uses& uses = uses_[block.value];
  extent.has_uses = true;
  if (std::find(uses.streams.begin(), uses.streams.end(), stream) == uses.streams.end()) {
    uses.streams.push_back(stream);
  }
}

void NearFloorAllocator::poll() {
  if (pending_count_ == 0) {
    return;
  }
  const bool in_order = streams_.in_order();
  for (std::deque<Pending>& queue : pending_) {
    for (std::size_t i = 0; i < queue.size();) {
      const Pending pending = queue[i];
      if (!streams_.completed(pending.event)) {
        if (in_order) {
          break;
        }
        ++i;
        continue;
      }
      streams_.forget(pending.event);
      queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
      --pending_count_;
      if (--uses_[pending.block].events == 0) {
        uses_.erase(pending.block);
        finish(pending.block);
      }
    }
  }
}

void NearFloorAllocator::wait_for_pending() {
  ++statistics_.num_sync_all_streams;
  for (std::deque<Pending>& queue : pending_) {
    for (const Pending& pending : queue) {
      streams_.wait(pending.event);
      streams_.forget(pending.event);
      --pending_count_;
      if (--uses_[pending.block].events == 0) {
        uses_.erase(pending.block);
        finish(pending.block);
      }
    }
    queue.clear();
  }
}

void NearFloorAllocator::empty_cache() {
  wait_for_pending();
  extents_.settle();
  // Whole handles that are free, neighbours in one call.
  std::vector<Range> idle;
  extents_.for_each_free(granularity_, [&](std::uint32_t id) {
    const Range whole = handles_.whole_within(extents_[id].home, extents_[id].end());
    if (whole.size > 0) {
      idle.push_back(whole);
    }
  });
  std::sort(idle.begin(), idle.end(),
            [](const Range& a, const Range& b) { return a.home < b.home; });
  for (const Range& range : idle) {
    for (std::uint64_t at = range.home; at < range.home + range.size;) {
      const std::uint32_t handle = handles_.at(at);
      at = handles_[handle].end();
      views_.drop(handle);
    }
    extents_.remove(range.home, range.size);
    handles_.destroy(range.home, range.size);
    ++statistics_.num_device_free;
    statistics_.reserved.decrease(static_cast<std::int64_t>(range.size));
    emit(Action::segment_unmap, Address{range.home}, bytes(range.size), StreamId{});
  }
}

HeapView NearFloorAllocator::view() const {
  HeapView view;
  // Which block a piece belongs to, and how much of the request it holds.
  struct Owner {
    std::uint64_t requested{};
    Extents::State state{};
    std::uint16_t stream{};
  };
  std::unordered_map<std::uint32_t, Owner> owners;
  const auto busy = [&](std::uint32_t id) {
    return extents_[id].state == Extents::State::used ||
           extents_[id].state == Extents::State::pending;
  };
  std::unordered_map<std::uint32_t, bool> followers;
  for (std::uint32_t id = extents_.first(); id != kNone; id = extents_[id].next) {
    if (busy(id) && extents_[id].piece != kNone) {
      followers[extents_[id].piece] = true;
    }
  }
  for (std::uint32_t id = extents_.first(); id != kNone; id = extents_[id].next) {
    if (!busy(id) || followers.contains(id)) {
      continue;
    }
    std::uint64_t left = extents_[id].requested;
    for (std::uint32_t piece = id; piece != kNone; piece = extents_[piece].piece) {
      const std::uint64_t here = std::min(left, extents_[piece].size);
      owners[piece] = {here, extents_[id].state, extents_[id].stream};
      left -= here;
    }
  }
  bool open = false;
  for (std::uint32_t id = extents_.first(); id != kNone; id = extents_[id].next) {
    const Extents::Extent& extent = extents_[id];
    if (extent.state == Extents::State::gap) {
      open = false;
      continue;
    }
    if (!open) {
      view.segments.push_back({.address = Address{extent.home}, .expandable = true});
      open = true;
    }
    SegmentView& segment = view.segments.back();
    segment.size += bytes(extent.size);
    if (extent.state == Extents::State::free &&
        extents_[extent.previous].state == Extents::State::free) {
      segment.blocks.back().size += bytes(extent.size);  // one hole, not joined yet
      continue;
    }
    BlockView block{.address = Address{extent.home}, .size = bytes(extent.size)};
    if (const auto owner = owners.find(id); owner != owners.end()) {
      block.requested = bytes(owner->second.requested);
      block.state =
          owner->second.state == Extents::State::used ? BlockState::allocated : BlockState::pending;
      block.stream = StreamId{owner->second.stream};
    }
    segment.blocks.push_back(block);
  }
  return view;
}

Expected<std::unique_ptr<Allocator>> make_near_floor(Device& device, Streams& streams,
                                                     const PolicyOptions& options) {
  const Expected<Tuning> tuning = read_tuning(options);
  if (!tuning) {
    return tuning.error();
  }
  return std::unique_ptr<Allocator>{
      std::make_unique<NearFloorAllocator>(device, streams, *tuning, options.limit)};
}

}  // namespace peakcast::near_floor
