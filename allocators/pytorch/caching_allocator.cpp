#include "allocators/pytorch/caching_allocator.hpp"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace peakcast::pytorch {
namespace {

// c10/core/AllocatorConfig.h
constexpr std::uint64_t kMinBlock = 512;
constexpr std::uint64_t kSmallSize = 1ULL << 20;  // the largest size of the small pool
constexpr std::uint64_t kSmallSegment = 2ULL << 20;
constexpr std::uint64_t kMinLargeAlloc = 10ULL << 20;  // from here on: a segment of its own
constexpr std::uint64_t kRoundLarge = 2ULL << 20;
constexpr std::uint64_t kRefused = 1ULL << 60;  // "more than 1EB"
constexpr std::uint64_t kLargestIndexed = 1ULL << 40;
constexpr std::uint8_t kSmall = 0;
constexpr std::uint8_t kLarge = 1;

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
constexpr std::int64_t s(std::uint64_t value) { return static_cast<std::int64_t>(value); }
constexpr Bytes bytes(std::uint64_t value) { return Bytes{static_cast<std::int64_t>(value)}; }

/// The next of `divisions` equal steps between two powers of two. Precondition: divisions >= 2.
std::uint64_t next_division(std::uint64_t size, std::uint64_t divisions) {
  if (std::has_single_bit(size)) {
    return size;
  }
  const std::uint64_t floor = std::bit_floor(size);
  const std::uint64_t step = floor >> std::countr_zero(std::bit_floor(divisions));
  if (step == 0) {
    return floor << 1;
  }
  const std::uint64_t base = size & ~(step - 1);
  return base == size ? size : base + step;
}

}  // namespace

CachingAllocator::CachingAllocator(Device& device, Streams& streams, Options options)
    : device_{device},
      streams_{streams},
      version_{options.version},
      settings_{options.settings},
      limit_{to_limit(options.limit)} {
  check(device.spec().total.count() <= (std::int64_t{1} << 40),
        "blocks are indexed for cards of up to 1 TiB");
  if (!options.limit && settings_.per_process_memory_fraction < 1.0) {
    limit_ = static_cast<std::uint64_t>(settings_.per_process_memory_fraction *
                                        static_cast<double>(device.spec().total.count()));
  }
  pools_.emplace_back().small = true;
  pools_.emplace_back().small = false;
  blocks_.emplace_back();  // kNoBlock
  note_what_is_plain();
}

/// How many streams' requests allocate() may serve in few steps: all that the default pools know,
/// or 0 unless requests go to those pools, sizes are rounded to 512, any free block may be split,
/// no garbage collection counts the calls or ever did, no segment is expandable, and nobody
/// listens.
void CachingAllocator::note_what_is_plain() {
  const auto& divisions = settings_.roundup_power2_divisions;
  const bool plain =
      !has_sink() && diversions_.empty() && expandable_segments_.empty() &&
      !settings_.expandable_segments && settings_.max_split_size == Settings::kUnlimited &&
      settings_.garbage_collection_threshold <= 0.0 &&
      std::all_of(divisions.begin(), divisions.end(), [](std::uint64_t d) { return d <= 1; }) &&
      std::all_of(pools_.begin(), pools_.end(), [](const Pool& pool) { return pool.calls == 0; });
  const std::size_t known = std::min(pools_[kSmall].free.size(), pools_[kLarge].free.size());
  plain_streams_ = plain ? static_cast<std::uint32_t>(known) : 0;
}

CachingAllocator::~CachingAllocator() = default;

// ------------------------------------------------------------------------------------------------
// Sizes

std::uint64_t CachingAllocator::round_size(std::uint64_t size) const {
  if (size < kMinBlock) {
    return kMinBlock;
  }
  const int log = 63 - std::countl_zero(size);
  const auto interval = static_cast<std::size_t>(std::clamp(log - 20, 0, 15));
  const std::uint64_t divisions = settings_.roundup_power2_divisions.at(interval);
  if (divisions > 1 && size > kMinBlock * divisions) {
    return next_division(size, divisions);
  }
  return up(size, kMinBlock);
}

std::uint64_t CachingAllocator::allocation_size(std::uint64_t rounded) const {
  if (rounded <= kSmallSize) {
    return kSmallSegment;
  }
  if (rounded < kMinLargeAlloc) {
    return settings_.large_segment_size;
  }
  return up(rounded, kRoundLarge);
}

std::uint8_t CachingAllocator::choose_pool(std::uint64_t rounded, StreamId stream) const {
  const bool small = rounded <= kSmallSize;
  if (!diversions_.empty()) [[unlikely]] {
    const auto pool_of = [&](const Diversion& diversion) -> std::optional<std::uint8_t> {
      if (!diversion.filter(stream)) {
        return std::nullopt;
      }
      for (const auto& pool : private_pools_) {
        if (pool->id == diversion.id) {
          return small ? pool->small : pool->large;
        }
      }
      return std::nullopt;
    };
    std::optional<std::uint8_t> found;
    if (version_.newest_pool_first) {
      for (auto it = diversions_.rbegin(); it != diversions_.rend() && !found; ++it) {
        found = pool_of(*it);
      }
    } else {
      for (auto it = diversions_.begin(); it != diversions_.end() && !found; ++it) {
        found = pool_of(*it);
      }
    }
    if (found) {
      return *found;
    }
  }
  return small ? kSmall : kLarge;
}

bool CachingAllocator::expandable_for(const Pool& pool) const {
  return settings_.expandable_segments &&
         !(pool.owner != nullptr && pool.owner->options.device != nullptr);
}

bool CachingAllocator::should_split(const Block& block, std::uint64_t size, bool expandable) const {
  const Pool& pool = pools_[block.home.pool];
  if (pool.owner != nullptr && pool.owner->options.no_split) [[unlikely]] {
    return false;
  }
  const std::uint64_t rest = block.size - size;
  if (pool.small || expandable) {
    return rest >= kMinBlock;
  }
  return size < settings_.max_split_size && rest > kSmallSize;
}

// ------------------------------------------------------------------------------------------------
// Blocks and indices

[[gnu::cold, gnu::noinline]] void CachingAllocator::grow_blocks() { blocks_.emplace_back(); }

/// A new block is in no index yet; who asks for it sets address, size, neighbours, segment, stream,
/// pool and state. Nothing holds it.
[[gnu::always_inline]] inline std::uint32_t CachingAllocator::new_block() {
  std::uint32_t id = unused_block_;
  if (id == kNoBlock) [[unlikely]] {
    id = static_cast<std::uint32_t>(blocks_.size());
    grow_blocks();
  }
  unused_block_ = blocks_[id].next;
  return id;
}

inline void CachingAllocator::delete_block(std::uint32_t id) {
  blocks_[id].state = State::none;
  blocks_[id].next = unused_block_;
  unused_block_ = id;
}

template <bool kPlain>
[[gnu::always_inline]] inline void CachingAllocator::put_free(FreeIndex& index, std::uint32_t id) {
  Block& block = blocks_[id];
  if constexpr (!kPlain) {
    block.gc_base = pools_[block.home.pool].calls;
  }
  block.slot = index.insert(units(block.size), block.address, id);
}

std::uint32_t CachingAllocator::add_block(const Block& block) {
  const std::uint32_t id = new_block();
  blocks_[id] = block;
  if (block.previous != kNoBlock) {
    blocks_[block.previous].next = id;
  }
  if (block.state == State::free) {
    put_free<false>(index_of(block.home), id);
  } else if (block.state == State::unmapped) {
    put_unmapped(id);
  }
  return id;
}

void CachingAllocator::put_unmapped(std::uint32_t id) {
  const Block& block = blocks_[id];
  Pool& pool = pools_[block.home.pool];
  pool.unmapped.emplace(std::pair{block.home.stream, block.address}, id);
}

void CachingAllocator::take_unmapped(std::uint32_t id) {
  const Block& block = blocks_[id];
  pools_[block.home.pool].unmapped.erase({block.home.stream, block.address});
}

// ------------------------------------------------------------------------------------------------
// malloc

/// Gives block `id`, which is free and in no index, or its front when it is split. `index` is the
/// block's own, `kind` that of its pool. `kPlain`: what note_what_is_plain() says holds.
template <bool kPlain>
[[gnu::always_inline]] inline std::uint32_t CachingAllocator::hand_out(
    std::size_t kind, FreeIndex& index, std::uint32_t id, std::uint64_t size,
    std::uint64_t requested, bool split) {
  const bool expandable = !kPlain && blocks_[id].segment != kNone;
  const bool in_use = is_split(blocks_[id]);
  if (!expandable && !in_use) {
    books_.begin_use(kind, s(blocks_[id].size));
  }
  if (split) {
    // A new object takes the front; the old one becomes the remainder behind it. Written field by
    // field: a copy of the whole would wait for the stores that made it.
    const std::uint32_t front = new_block();
    Block& rest = blocks_[id];
    Block& block = blocks_[front];
    block.address = rest.address;
    block.size = size;
    block.previous = rest.previous;
    block.next = id;
    if constexpr (!kPlain) {
      block.segment = rest.segment;
    }
    block.home = rest.home;
    blocks_[block.previous].next = front;
    rest.previous = front;
    rest.address += size;
    rest.size -= size;
    if (!expandable) {
      books_.split(kind);
      if (!in_use) {
        books_.begin_rest(kind, s(rest.size));
      }
    }
    put_free<kPlain>(index, id);
    id = front;
  }
  Block& block = blocks_[id];
  block.state = State::allocated;
  block.requested = requested;
  if constexpr (!kPlain) {
    emit(Action::alloc, Address{block.address}, bytes(requested), StreamId{block.home.stream});
  }
  if (expandable) {
    books_.begin_use(kind, s(block.size));
  }
  books_.rise(kind, s(block.size), s(requested));
  if constexpr (!kPlain) {
    if (books_.pending()) {
      books_.note_pending();
    }
    if (block.size >= settings_.max_split_size) {
      oversize_allocations_.increase(1);
    }
  }
  return id;
}

/// The few steps of malloc that are taken nearly always: a block, or kNoBlock where it takes more.
[[gnu::always_inline]] inline std::uint32_t CachingAllocator::allocate_plainly(
    std::uint64_t requested, std::uint32_t stream) {
  if (stream >= plain_streams_ || requested > kLargestIndexed || books_.pending()) [[unlikely]] {
    return kNoBlock;
  }
  books_.before_rise();
  const std::uint64_t size = up(requested, kMinBlock);
  const bool small = size <= kSmallSize;
  const std::size_t kind = small ? kSmall : kLarge;
  FreeIndex& index = *pools_[kind].free[stream];
  const FreeIndex::Taken taken = index.take_first(units(size));
  if (taken.block == FreeIndex::kNone) [[unlikely]] {
    return kNoBlock;
  }
  note_taken(taken);
  const std::uint64_t rest = blocks_[taken.block].size - size;
  return hand_out<true>(kind, index, taken.block, size, requested,
                        rest >= (small ? kMinBlock : kSmallSize + 1));
}

AllocOutcome CachingAllocator::allocate(const AllocRequest& request) {
  const std::uint32_t id =
      allocate_plainly(static_cast<std::uint64_t>(request.size.count()), request.stream.value);
  return id != kNoBlock ? AllocOutcome{placement_of(id)} : allocate_anyhow(request);
}

/// The whole of malloc, for all settings.
AllocOutcome CachingAllocator::allocate_anyhow(const AllocRequest& request) {
  const auto requested = static_cast<std::uint64_t>(request.size.count());
  if (requested >= kRefused) {
    // Refused before anything else: no trace, no counters.
    return OutOfMemory{.requested = request.size,
                       .rounded = request.size,
                       .attempted = request.size,
                       .device_free = device_.free_memory(),
                       .largest_free_block = {},
                       .allocated = Bytes{books_.allocated_bytes()},
                       .reserved = Bytes{books_.reserved_bytes()}};
  }
  if (books_.pending()) {
    poll();
  }
  const auto stream = static_cast<std::uint16_t>(request.stream.value);
  const std::uint64_t size = round_size(requested);
  std::uint8_t pool = choose_pool(size, request.stream);
  const bool expandable = expandable_for(pools_[pool]);

  std::uint32_t id = find_free(pool, size, stream, expandable);
  bool lent = false;
  if (id == kNoBlock) {
    const std::uint64_t segment_size = allocation_size(size);
    if (limit_ != kNoLimit && settings_.garbage_collection_threshold > 0.0) {
      garbage_collect();
    }
    id = grow(pool, size, segment_size, stream, expandable, false);
    if (id == kNoBlock && version_.fallback_to_pools) {
      id = fall_back(pool, size, stream);
      lent = id != kNoBlock;
    }
    if (id == kNoBlock && release_available(pool, size, stream)) {
      id = grow(pool, size, segment_size, stream, expandable, false);
    }
    if (id == kNoBlock && diversions_.empty()) {
      release_cached(PoolId{0, 0});
      id = grow(pool, size, segment_size, stream, expandable, true);
    }
    if (id == kNoBlock) {
      return fail(requested, size, segment_size, pool, stream);
    }
  }
  // Handling of expandable segments is off for what a pool lends.
  const bool split = should_split(blocks_[id], size, expandable && !lent);
  take_free(id);
  books_.before_rise();
  return placement_of(
      hand_out<false>(pool % 2, *pools_[pool].free[stream], id, size, requested, split));
}

std::uint32_t CachingAllocator::find_free(std::uint8_t pool_id, std::uint64_t size,
                                          std::uint16_t stream, bool expandable) {
  Pool& pool = pools_[pool_id];
  if (limit_ != kNoLimit && settings_.garbage_collection_threshold > 0.0) [[unlikely]] {
    ++pool.calls;
  }
  if (stream >= pool.free.size() || size > kLargestIndexed) [[unlikely]] {
    return kNoBlock;
  }
  FreeIndex& index = *pool.free[stream];
  std::uint32_t id = index.find(units(size));
  if (id == FreeIndex::kNone) {
    return kNoBlock;
  }
  if (blocks_[id].segment != kNone) [[unlikely]] {
    const auto after = [&](std::uint32_t of) {
      return index.find(units(blocks_[of].size), blocks_[of].address + kMinBlock);
    };
    if (expandable) {
      // Prefer the block that could grow least, looking forward only.
      const auto room = [&](const Block& block) {
        const bool grows = blocks_[block.next].state == State::unmapped;
        return block.size + (grows ? blocks_[block.next].size : 0);
      };
      for (std::uint32_t next = after(id);
           blocks_[id].segment != kNone && next != FreeIndex::kNone &&
           room(blocks_[next]) < room(blocks_[id]);
           next = after(next)) {
        id = next;
      }
    } else {
      // The feature was switched off: its blocks are passed over.
      do {
        id = after(id);
        if (id == FreeIndex::kNone) {
          return kNoBlock;
        }
      } while (blocks_[id].segment != kNone);
    }
  }
  const std::uint64_t found = blocks_[id].size;
  if (size < settings_.max_split_size && found >= settings_.max_split_size) {
    return kNoBlock;
  }
  if (size >= settings_.max_split_size && found >= size + settings_.max_non_split_rounding) {
    return kNoBlock;
  }
  return id;
}

std::uint32_t CachingAllocator::fall_back(std::uint8_t& pool, std::uint64_t size,
                                          std::uint16_t stream) {
  if (pools_[pool].owner != nullptr) {
    return kNoBlock;
  }
  for (const auto& candidate : private_pools_) {
    if (!candidate->options.use_on_oom) {
      continue;
    }
    const std::uint8_t other = pools_[pool].small ? candidate->small : candidate->large;
    const std::uint32_t id = find_free(other, size, stream, false);
    if (id != kNoBlock) {
      pool = other;
      return id;
    }
  }
  return kNoBlock;
}

OutOfMemory CachingAllocator::fail(std::uint64_t requested, std::uint64_t size,
                                   std::uint64_t segment_size, std::uint8_t pool,
                                   std::uint16_t stream) {
  const Bytes device_free = device_.free_memory();
  emit(Action::oom, Address{static_cast<std::uint64_t>(device_free.count())}, bytes(size),
       StreamId{stream});
  ++statistics_.num_ooms;
  std::uint64_t largest = 0;
  const Pool& p = pools_[pool];
  if (stream < p.free.size()) {
    const std::vector<std::uint32_t> free = p.free[stream]->sorted();
    largest = free.empty() ? 0 : blocks_[free.back()].size;
  }
  return OutOfMemory{.requested = bytes(requested),
                     .rounded = bytes(size),
                     .attempted = bytes(segment_size),
                     .device_free = device_free,
                     .largest_free_block = bytes(largest),
                     .allocated = Bytes{books_.allocated_bytes()},
                     .reserved = Bytes{books_.reserved_bytes()}};
}

// ------------------------------------------------------------------------------------------------
// Growing

Device& CachingAllocator::device_of(const Pool& pool) const {
  return pool.owner != nullptr && pool.owner->options.device != nullptr
             ? *pool.owner->options.device
             : device_;
}

void CachingAllocator::count_segment(const Block& block, std::int64_t sign) {
  books_.change_segments(kind_of(block), sign);
  books_.change_reserved(kind_of(block), sign * s(block.size));
  if (block.size >= settings_.max_split_size) {
    if (sign > 0) {
      oversize_segments_.increase(1);
    } else {
      oversize_segments_.decrease(1);
    }
  }
}

/// A free block of at least `size` that is new from the device, or kNoBlock.
std::uint32_t CachingAllocator::grow(std::uint8_t pool_id, std::uint64_t size,
                                     std::uint64_t segment_size, std::uint16_t stream,
                                     bool expandable, bool retry) {
  if (retry) {
    ++statistics_.num_alloc_retries;
  }
  // The segment's size enters the test even when pages would be mapped instead.
  if (limit_ != kNoLimit && held_ + segment_size > limit_) {
    return kNoBlock;
  }
  Pool& pool = pools_[pool_id];
  while (pool.free.size() <= stream) {
    pool.free.push_back(std::make_unique<FreeIndex>());
    note_what_is_plain();
  }
  if (expandable) {
    const std::uint32_t id = grow_expandable(pool_id, stream, size);
    if (id != kNoBlock && pool.owner != nullptr) {
      ++pool.owner->device_allocations;
    }
    return id;
  }
  const std::optional<Address> address = device_of(pool).acquire(bytes(segment_size));
  if (!address) {
    return kNoBlock;
  }
  if (pool.owner != nullptr) {
    ++pool.owner->device_allocations;
  }
  check(address->value() >> 47 == 0, "a device address of more than 47 bits");
  held_ += segment_size;
  const std::uint32_t id = new_block();
  Block& block = blocks_[id] = Block{};
  block.address = address->value();
  block.size = segment_size;
  block.home = {stream, pool_id};
  put_free(id);
  count_segment(block, 1);
  ++statistics_.num_device_alloc;
  emit(Action::segment_alloc, *address, bytes(segment_size), StreamId{stream});
  return id;
}

// ------------------------------------------------------------------------------------------------
// free

/// Joins `from`, which is in no index, to its neighbour `into`.
inline void CachingAllocator::merge(std::uint32_t into, std::uint32_t from) {
  Block& dst = blocks_[into];
  const Block& src = blocks_[from];
  if (dst.previous == from) {
    dst.address = src.address;
    dst.previous = src.previous;
    blocks_[dst.previous].next = into;
  } else {
    dst.next = src.next;
    blocks_[dst.next].previous = into;
  }
  dst.size += src.size;
  delete_block(from);
}

/// The same when `from` is free, or unmapped, as `into` is.
void CachingAllocator::try_merge(std::uint32_t into, std::uint32_t from) {
  if (blocks_[from].state != blocks_[into].state) {
    return;
  }
  if (blocks_[from].state == State::free) {
    take_free(from);
  } else {
    take_unmapped(from);
  }
  merge(into, from);
}

template <bool kPlain>
[[gnu::always_inline]] inline void CachingAllocator::free_block(std::uint32_t id) {
  Block& block = blocks_[id];
  if constexpr (!kPlain) {
    emit(Action::free_completed, Address{block.address}, bytes(block.requested),
         StreamId{block.home.stream});
  }
  FreeIndex& index = index_of(block.home);
  const std::int64_t given = s(block.size);
  std::int64_t neighbours = 0;
  const std::uint32_t before = block.previous;
  if (blocks_[before].state == State::free) {
    note_taken(index.erase(blocks_[before].slot));
    merge(id, before);
    ++neighbours;
  }
  const std::uint32_t behind = block.next;
  if (blocks_[behind].state == State::free) {
    note_taken(index.erase(blocks_[behind].slot));
    merge(id, behind);
    ++neighbours;
  }
  block.state = State::free;
  put_free<kPlain>(index, id);
  const bool expandable = !kPlain && block.segment != kNone;
  books_.become_free(kind_of(block), given, s(block.requested),
                     expandable ? Books::Joined{.neighbours = 0, .bytes = given, .whole = true}
                                : Books::Joined{.neighbours = neighbours,
                                                .bytes = s(block.size),
                                                .whole = !is_split(block)});
}

[[gnu::always_inline]] inline void CachingAllocator::free_now(std::uint32_t id) {
  Block& block = blocks_[id];
  check(block.state == State::allocated, "deallocate of a block that is not allocated");
  books_.before_fall();
  if (plain_streams_ != 0 && block.uses == kNone) [[likely]] {
    const std::int64_t given = s(block.size);
    free_block<true>(id);
    books_.fall(kind_of(block), given);
    return;
  }
  free_anyhow(id);
}

void CachingAllocator::deallocate(BlockId id) { free_now(id.value); }

Served CachingAllocator::serve(std::span<const Op> ops, std::span<BlockId> blocks) {
  for (const Op& op : ops) {
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      std::uint32_t id = allocate_plainly(static_cast<std::uint64_t>(op.value), op.stream);
      if (id == kNoBlock) [[unlikely]] {
        const AllocOutcome outcome =
            allocate_anyhow({.size = Bytes{op.value}, .stream = StreamId{op.stream}});
        if (const auto* failure = std::get_if<OutOfMemory>(&outcome)) {
          return {.ops = static_cast<std::size_t>(&op - ops.data()), .failure = *failure};
        }
        id = std::get<Placement>(outcome).block.value;
      }
      blocks[op.id] = BlockId{id};
    } else if (op.kind == OpKind::free && blocks[op.id] != kUnplaced) {
      free_now(blocks[op.id].value);
      blocks[op.id] = kUnplaced;
    } else {
      return {.ops = static_cast<std::size_t>(&op - ops.data())};
    }
  }
  return {.ops = ops.size()};
}

/// The rest of free, for all settings.
void CachingAllocator::free_anyhow(std::uint32_t id) {
  Block& block = blocks_[id];
  emit(Action::free_requested, Address{block.address}, bytes(block.requested),
       StreamId{block.home.stream});
  if (block.size >= settings_.max_split_size) {
    oversize_allocations_.decrease(1);
  }
  const std::size_t kind = kind_of(block);
  const std::int64_t given = s(block.size);
  if (block.uses == kNone) {
    free_block<false>(id);
    books_.fall(kind, given);
    return;
  }
  block.state = State::pending;
  books_.fall(kind, given);
  books_.begin_pending(kind, given);
  if (!diversions_.empty()) {
    deferred_.push_back(id);
  } else {
    insert_events(id);
  }
}

/// A pending block became free.
void CachingAllocator::free_pending(std::uint32_t id) {
  const Block& block = blocks_[id];
  const std::size_t kind = kind_of(block);
  const std::int64_t given = s(block.size);
  books_.before_fall();
  free_block<false>(id);
  books_.end_pending(kind, given);
}

// ------------------------------------------------------------------------------------------------
// Streams and events

void CachingAllocator::record_stream(BlockId id, StreamId stream) {
  Block& block = blocks_[id.value];
  check(block.state == State::allocated, "record_stream of a block that is not allocated");
  if (stream.value == block.home.stream) {
    return;
  }
  if (block.uses == kNone) {
    if (unused_stream_uses_.empty()) {
      block.uses = static_cast<std::uint32_t>(stream_uses_.size());
      stream_uses_.emplace_back();
    } else {
      block.uses = unused_stream_uses_.back();
      unused_stream_uses_.pop_back();
    }
  }
  auto& uses = stream_uses_[block.uses];
  const bool captured = !diversions_.empty();
  const auto at = std::lower_bound(uses.begin(), uses.end(), stream,
                                   [](const StreamUse& u, StreamId x) { return u.stream < x; });
  if (at == uses.end() || at->stream != stream) {
    uses.insert(at, StreamUse{stream, captured});
  } else {
    // A use that is made again under a pool counts as the pool's.
    at->captured = at->captured || captured;
  }
}

void CachingAllocator::insert_events(std::uint32_t id) {
  Block& block = blocks_[id];
  auto& uses = stream_uses_[block.uses];
  for (const StreamUse& use : uses) {
    const EventId event = streams_.record(use.stream);
    ++block.events;
    if (event_queues_.size() <= use.stream.value) {
      event_queues_.resize(use.stream.value + 1);
    }
    event_queues_[use.stream.value].push_back(PendingEvent{event, id});
    ++pending_events_;
  }
  uses.clear();
  unused_stream_uses_.push_back(block.uses);
  block.uses = kNone;
}

void CachingAllocator::insert_deferred() {
  const std::vector<std::uint32_t> deferred = std::move(deferred_);
  deferred_.clear();
  for (const std::uint32_t id : deferred) {
    auto& uses = stream_uses_[blocks_[id].uses];
    std::erase_if(uses, [](const StreamUse& use) { return use.captured; });
    insert_events(id);
    if (blocks_[id].events == 0) {
      free_pending(id);
    }
  }
}

void CachingAllocator::process_events() {
  insert_deferred();
  const bool in_order = streams_.in_order();
  for (auto& queue : event_queues_) {
    for (std::size_t i = 0; i < queue.size();) {
      const PendingEvent pending = queue[i];
      if (!streams_.completed(pending.event)) {
        if (in_order) {
          break;
        }
        ++i;
        continue;
      }
      streams_.forget(pending.event);
      queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
      --pending_events_;
      if (--blocks_[pending.block].events == 0) {
        free_pending(pending.block);
      }
    }
  }
}

void CachingAllocator::poll() {
  if (diversions_.empty()) {
    process_events();
  }
}

void CachingAllocator::synchronize_and_free_events(const PrivatePool* pool) {
  ++statistics_.num_sync_all_streams;
  insert_deferred();
  for (auto& queue : event_queues_) {
    for (std::size_t i = 0; i < queue.size();) {
      const PendingEvent pending = queue[i];
      if (pool != nullptr && pools_[blocks_[pending.block].home.pool].owner != pool) {
        ++i;
        continue;
      }
      streams_.wait(pending.event);
      streams_.forget(pending.event);
      queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
      --pending_events_;
      if (--blocks_[pending.block].events == 0) {
        free_pending(pending.block);
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------
// Giving memory back

void CachingAllocator::garbage_collect() {
  const auto threshold = static_cast<std::uint64_t>(settings_.garbage_collection_threshold *
                                                    static_cast<double>(limit_));
  if (held_ <= threshold) {
    return;
  }
  const std::uint64_t target = held_ - threshold;
  Pool& pool = pools_[kLarge];
  double total_age = 0.0;
  std::int64_t candidates = 0;
  const auto each_free = [&](auto&& visit) {
    for (const auto& index : pool.free) {
      for (const std::uint32_t id : index->sorted()) {
        visit(id);
      }
    }
  };
  const auto age = [&](const Block& block) { return pool.calls - block.gc_base; };
  each_free([&](std::uint32_t id) {
    if (!is_split(blocks_[id])) {
      total_age += static_cast<double>(age(blocks_[id]));
      ++candidates;
    }
  });
  if (candidates == 0) {
    return;
  }
  std::uint64_t reclaimed = 0;
  bool progress = true;
  while (reclaimed < target && progress && candidates > 0) {
    // Fixed during a pass, which is not stopped when the target is reached.
    const double cut = total_age / static_cast<double>(candidates);
    progress = false;
    std::vector<std::uint32_t> doomed;
    each_free([&](std::uint32_t id) {
      const Block& block = blocks_[id];
      if (!is_split(block) && block.segment == kNone && static_cast<double>(age(block)) >= cut) {
        doomed.push_back(id);
      }
    });
    for (const std::uint32_t id : doomed) {
      progress = true;
      reclaimed += blocks_[id].size;
      total_age -= static_cast<double>(age(blocks_[id]));
      --candidates;
      release_block(id);
    }
  }
}

bool CachingAllocator::release_available(std::uint8_t pool_id, std::uint64_t size,
                                         std::uint16_t stream) {
  if (settings_.max_split_size == Settings::kUnlimited) {
    return false;
  }
  const std::uint64_t key = std::max(size, settings_.max_split_size);
  Pool& pool = pools_[pool_id];
  // The order runs over all streams: what stands before this stream's blocks is another stream's.
  if (stream >= pool.free.size() || pool.free[stream]->empty()) {
    return false;
  }
  const std::vector<std::uint32_t> free = pool.free[stream]->sorted();
  const auto big_enough = std::find_if(free.begin(), free.end(),
                                       [&](std::uint32_t id) { return blocks_[id].size >= key; });
  if (big_enough != free.end() && blocks_[*big_enough].segment == kNone) {
    release_block(*big_enough);
    return true;
  }
  // From there downward, oversize blocks until their sum is enough.
  std::uint64_t got = 0;
  for (auto it = std::make_reverse_iterator(big_enough);
       it != free.rend() && got < key && blocks_[*it].size >= settings_.max_split_size; ++it) {
    if (blocks_[*it].segment == kNone) {
      got += blocks_[*it].size;
      release_block(*it);
    }
  }
  return got >= key;
}

void CachingAllocator::release_block(std::uint32_t id) {
  Block& block = blocks_[id];
  Pool& pool = pools_[block.home.pool];
  ++statistics_.num_device_free;
  emit(Action::segment_free, Address{block.address}, bytes(block.size),
       StreamId{block.home.stream});
  device_of(pool).release(Address{block.address});
  held_ -= block.size;
  if (pool.owner != nullptr) {
    --pool.owner->device_allocations;
  }
  count_segment(block, -1);
  take_free(id);
  delete_block(id);
}

void CachingAllocator::release_blocks(std::uint8_t pool_id) {
  Pool& pool = pools_[pool_id];
  std::vector<std::uint32_t> ordinary;
  std::vector<std::uint32_t> expandable;
  for (const auto& index : pool.free) {
    for (const std::uint32_t id : index->sorted()) {
      if (blocks_[id].segment != kNone) {
        expandable.push_back(id);
      } else if (!is_split(blocks_[id])) {
        ordinary.push_back(id);
      }
    }
  }
  for (const std::uint32_t id : ordinary) {
    release_block(id);
  }
  for (const std::uint32_t id : expandable) {
    unmap_block(id);
  }
}

void CachingAllocator::release_cached(PoolId id) {
  if (id == PoolId{0, 0} && diversions_.empty()) {
    synchronize_and_free_events(nullptr);
    release_blocks(kLarge);
    release_blocks(kSmall);
  }
  for (std::size_t i = 0; i < private_pools_.size();) {
    PrivatePool& pool = *private_pools_[i];
    if (!pool.freeable || (id != PoolId{0, 0} && pool.id != id)) {
      ++i;
      continue;
    }
    if (id != PoolId{0, 0}) {
      synchronize_and_free_events(&pool);
    }
    release_blocks(pool.small);
    release_blocks(pool.large);
    if (pool.device_allocations == 0) {
      pools_[pool.small].owner = nullptr;
      pools_[pool.large].owner = nullptr;
      private_pools_.erase(private_pools_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

void CachingAllocator::empty_cache() { release_cached(PoolId{0, 0}); }

// ------------------------------------------------------------------------------------------------
// Expandable segments

bool CachingAllocator::usable(std::uint32_t id) const {
  return blocks_[id].state == State::free || blocks_[id].state == State::unmapped;
}

std::uint32_t CachingAllocator::find_expandable(std::uint8_t pool_id, std::uint16_t stream,
                                                std::uint64_t size) {
  Pool& pool = pools_[pool_id];
  for (auto it = pool.unmapped.lower_bound({stream, 0});
       it != pool.unmapped.end() && it->first.first == stream; ++it) {
    const std::uint32_t unmapped = it->second;
    const std::uint32_t before = blocks_[unmapped].previous;
    const std::uint32_t candidate = usable(before) ? before : unmapped;
    std::uint64_t room = 0;
    for (std::uint32_t id = candidate; usable(id) && room < size; id = blocks_[id].next) {
      room += blocks_[id].size;
    }
    if (room >= size) {
      return candidate;
    }
  }
  const std::uint64_t page = pool.small ? kSmallSegment : settings_.large_segment_size;
  const auto total = static_cast<std::uint64_t>(device_.spec().total.count());
  ExpandableSegment segment{};
  segment.page = page;
  segment.size = up(total + total / 8, page);
  segment.stream = stream;
  segment.live = true;
  segment.pages.assign(segment.size / page, kNone);
  const std::optional<Address> base = device_.reserve(bytes(segment.size));
  if (!base || ((base->value() + segment.size) >> 47) != 0) {
    return kNoBlock;  // the address space is full: no memory there either
  }
  segment.base = base->value();
  const auto segment_id = static_cast<std::uint32_t>(expandable_segments_.size());
  const std::uint32_t id = new_block();
  Block& block = blocks_[id] = Block{};
  block.address = segment.base;
  block.size = segment.size;
  block.home = {stream, pool_id};
  block.segment = segment_id;
  block.state = State::unmapped;
  expandable_segments_.push_back(std::move(segment));
  note_what_is_plain();
  put_unmapped(id);
  return id;
}

bool CachingAllocator::map_block(std::uint32_t id, std::uint64_t want) {
  ExpandableSegment& segment = expandable_segments_[blocks_[id].segment];
  const std::uint64_t start = blocks_[id].address;
  const std::uint64_t length = up(want, segment.page);
  const std::uint64_t first = (start - segment.base) / segment.page;
  const std::uint64_t count = length / segment.page;
  // All or nothing: pages made for this call go back when one cannot be had.
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::optional<PhysicalId> physical = device_.create(bytes(segment.page));
    if (!physical) {
      for (std::uint64_t k = 0; k < i; ++k) {
        device_.destroy(PhysicalId{segment.pages[first + k]});
        segment.pages[first + k] = kNone;
      }
      return false;
    }
    segment.pages[first + i] = physical->value;
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    device_.map(Address{start + i * segment.page}, PhysicalId{segment.pages[first + i]});
  }
  take_unmapped(id);
  blocks_[id].state = State::free;
  if (length < blocks_[id].size) {
    const std::uint32_t tail = new_block();
    Block& block = blocks_[id];
    Block& rest = blocks_[tail] = Block{};
    rest.address = block.address + length;
    rest.size = block.size - length;
    rest.home = block.home;
    rest.segment = block.segment;
    rest.state = State::unmapped;
    rest.previous = id;
    rest.next = block.next;
    blocks_[block.next].previous = tail;
    block.next = tail;
    block.size = length;
    put_unmapped(tail);
  }
  try_merge(id, blocks_[id].previous);
  try_merge(id, blocks_[id].next);
  put_free(id);
  const Block& block = blocks_[id];
  held_ += length;
  books_.change_reserved(kind_of(block), s(length));
  ++statistics_.num_device_alloc;
  emit(Action::segment_map, Address{start}, bytes(length), StreamId{block.home.stream});
  return true;
}

std::uint32_t CachingAllocator::grow_expandable(std::uint8_t pool, std::uint16_t stream,
                                                std::uint64_t size) {
  std::uint32_t id = find_expandable(pool, stream, size);
  if (id == kNoBlock) {
    return kNoBlock;
  }
  if (blocks_[id].state == State::unmapped && !map_block(id, std::min(blocks_[id].size, size))) {
    return kNoBlock;
  }
  while (blocks_[id].size < size) {
    const std::uint32_t next = blocks_[id].next;
    const std::uint64_t lacks = size - blocks_[id].size;
    if (!map_block(next, std::min(lacks, blocks_[next].size))) {
      return kNoBlock;
    }
    id = next;  // it absorbed what stood in front of it
  }
  return id;
}

void CachingAllocator::unmap_block(std::uint32_t id) {
  ExpandableSegment& segment = expandable_segments_[blocks_[id].segment];
  const std::uint64_t start = blocks_[id].address;
  const std::uint64_t end = start + blocks_[id].size;
  const std::uint64_t low = segment.base + up(start - segment.base, segment.page);
  const std::uint64_t high = segment.base + (end - segment.base) / segment.page * segment.page;
  if (low >= high) {
    return;
  }
  // The real call waits for the segment's stream before it unmaps.
  streams_.synchronize(StreamId{segment.stream});
  for (std::uint64_t at = low; at < high; at += segment.page) {
    std::uint32_t& physical = segment.pages[(at - segment.base) / segment.page];
    device_.unmap(Address{at}, bytes(segment.page));
    device_.destroy(PhysicalId{physical});
    physical = kNone;
  }
  take_free(id);
  const auto keep = [&](std::uint64_t from, std::uint64_t to, bool in_front) {
    const std::uint32_t kept = new_block();
    Block& middle = blocks_[id];
    Block& block = blocks_[kept] = Block{};
    block.address = from;
    block.size = to - from;
    block.home = middle.home;
    block.segment = middle.segment;
    if (in_front) {
      block.previous = middle.previous;
      block.next = id;
      blocks_[middle.previous].next = kept;
      middle.previous = kept;
    } else {
      block.next = middle.next;
      block.previous = id;
      blocks_[middle.next].previous = kept;
      middle.next = kept;
    }
    put_free(kept);
  };
  if (low > start) {
    keep(start, low, true);
  }
  if (end > high) {
    keep(high, end, false);
  }
  Block& block = blocks_[id];
  block.address = low;
  block.size = high - low;
  block.state = State::unmapped;
  try_merge(id, block.previous);
  try_merge(id, block.next);
  put_unmapped(id);
  const std::uint64_t length = high - low;
  held_ -= length;
  Pool& pool = pools_[block.home.pool];
  books_.change_reserved(kind_of(block), -s(length));
  if (pool.owner != nullptr) {
    --pool.owner->device_allocations;
  }
  ++statistics_.num_device_free;
  emit(Action::segment_unmap, Address{low}, bytes(length), StreamId{block.home.stream});
  if (!is_split(block)) {
    // Nothing of the reservation is in use any more.
    take_unmapped(id);
    device_.unreserve(Address{segment.base}, bytes(segment.size));
    segment.live = false;
    segment.pages.clear();
    segment.pages.shrink_to_fit();
    delete_block(id);
  }
}

// ------------------------------------------------------------------------------------------------
// Private pools

CachingAllocator::PrivatePool* CachingAllocator::find_private(PoolId id) {
  for (const auto& pool : private_pools_) {
    if (pool->id == id) {
      return pool.get();
    }
  }
  return nullptr;
}

PoolId CachingAllocator::create_pool(const MemPoolOptions& options) {
  check(pools_.size() + 2 <= 256, "too many private pools");
  auto pool = std::make_unique<PrivatePool>();
  pool->id = PoolId{0, next_pool_++};
  pool->options = options;
  pool->use_count = 1;
  pool->small = static_cast<std::uint8_t>(pools_.size());
  pools_.emplace_back().small = true;
  pools_.back().owner = pool.get();
  pool->large = static_cast<std::uint8_t>(pools_.size());
  pools_.emplace_back().small = false;
  pools_.back().owner = pool.get();
  const PoolId id = pool->id;
  private_pools_.push_back(std::move(pool));
  return id;
}

void CachingAllocator::destroy_pool(PoolId id) {
  PrivatePool* pool = find_private(id);
  check(pool != nullptr, "destroy of an unknown pool");
  pool->options.use_on_oom = false;
  release_pool(id);
  release_cached(id);
}

void CachingAllocator::begin_allocate_to_pool(PoolId id, std::function<bool(StreamId)> filter) {
  PrivatePool* pool = find_private(id);
  check(pool != nullptr, "allocating to an unknown pool");
  for (const Diversion& diversion : diversions_) {
    check(diversion.id != id, "a pool is allocated to twice");
  }
  ++pool->use_count;
  diversions_.push_back(Diversion{id, std::move(filter)});
  note_what_is_plain();
}

void CachingAllocator::end_allocate_to_pool(PoolId id) {
  const auto it = std::find_if(diversions_.begin(), diversions_.end(),
                               [&](const Diversion& d) { return d.id == id; });
  check(it != diversions_.end(), "a pool is not allocated to");
  diversions_.erase(it);
  note_what_is_plain();
  release_pool(id);
}

void CachingAllocator::release_pool(PoolId id) {
  PrivatePool* pool = find_private(id);
  check(pool != nullptr && pool->use_count > 0, "release of an unknown pool");
  if (--pool->use_count == 0) {
    pool->freeable = true;
  }
}

// ------------------------------------------------------------------------------------------------
// What others see

std::array<MemoryStatistics, 3> CachingAllocator::memory_statistics() const {
  return {books_.statistics(kSmall), books_.statistics(kLarge), books_.statistics(Books::kAll)};
}

const Statistics& CachingAllocator::statistics() const {
  const MemoryStatistics all = books_.statistics(Books::kAll);
  statistics_.requested = all.requested_bytes;
  statistics_.allocated = all.allocated_bytes;
  statistics_.active = all.active_bytes;
  statistics_.reserved = all.reserved_bytes;
  statistics_.inactive_split = all.inactive_split_bytes;
  statistics_.segments = all.segment;
  statistics_.allocations = all.allocation;
  return statistics_;
}

HeapView CachingAllocator::view() const {
  // A view starts at each mapped block without a mapped block in front of it, as in PyTorch's
  // snapshot: an expandable segment shows one view per mapped run.
  HeapView heap;
  const auto mapped = [](const Block& block) {
    return block.state != State::none && block.state != State::unmapped;
  };
  for (const Block& first : blocks_) {
    if (!mapped(first) || mapped(blocks_[first.previous])) {
      continue;
    }
    SegmentView segment{.address = Address{first.address},
                        .size = {},
                        .stream = StreamId{first.home.stream},
                        .expandable = first.segment != kNone,
                        .small_pool = pools_[first.home.pool].small,
                        .blocks = {}};
    for (const Block* block = &first;;) {
      segment.blocks.push_back(
          BlockView{.address = Address{block->address},
                    .size = bytes(block->size),
                    .requested = bytes(block->requested),
                    .state = block->state == State::allocated ? BlockState::allocated
                             : block->state == State::pending ? BlockState::pending
                                                              : BlockState::free,
                    .stream = StreamId{block->home.stream}});
      segment.size += bytes(block->size);
      if (!mapped(blocks_[block->next])) {
        break;
      }
      block = &blocks_[block->next];
    }
    heap.segments.push_back(std::move(segment));
  }
  std::sort(heap.segments.begin(), heap.segments.end(),
            [](const SegmentView& a, const SegmentView& b) { return a.address < b.address; });
  return heap;
}

namespace {

/// c10's format_size: two decimals; the bounds belong to the smaller unit.
std::string format_size(std::int64_t size) {
  if (size <= 1024) {
    return fmt::format("{} bytes", size);
  }
  const auto in = static_cast<double>(size);
  if (size <= 1048576) {
    return fmt::format("{:.2f} KiB", in / 1024.0);
  }
  if (size <= 1073741824) {
    return fmt::format("{:.2f} MiB", in / 1048576.0);
  }
  return fmt::format("{:.2f} GiB", in / 1073741824.0);
}

}  // namespace

std::string CachingAllocator::message(const OutOfMemory& oom) const {
  std::int64_t in_private = 0;
  for (const auto& owner : private_pools_) {
    for (const std::uint8_t pool : {owner->small, owner->large}) {
      for (const auto& index : pools_[pool].free) {
        for (const std::uint32_t id : index->sorted()) {
          in_private += s(blocks_[id].size);
        }
      }
    }
  }
  std::string text = fmt::format(
      "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of {} of which {} is "
      "free. ",
      format_size(oom.attempted.count()), format_size(device_.spec().total.count()),
      format_size(oom.device_free.count()));
  if (limit_ != kNoLimit) {
    text += fmt::format("{} allowed; ", format_size(s(limit_)));
  }
  text += fmt::format("Of the allocated memory {} is allocated by PyTorch, ",
                      format_size(oom.allocated.count() + in_private));
  if (in_private > 0) {
    text += fmt::format("with {} allocated in private pools (e.g., CUDA Graphs), ",
                        format_size(in_private));
  }
  text += fmt::format("and {} is reserved by PyTorch but unallocated.",
                      format_size(oom.reserved.count() - oom.allocated.count() - in_private));
  return text;
}

}  // namespace peakcast::pytorch
