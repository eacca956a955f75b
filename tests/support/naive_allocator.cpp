#include "tests/support/naive_allocator.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "sim/core/check.hpp"

namespace peakcast::support {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

std::uint64_t rounded_up(std::uint64_t x, std::uint64_t m) { return (x / m + (x % m ? 1 : 0)) * m; }
Bytes bytes(std::uint64_t x) { return Bytes{static_cast<std::int64_t>(x)}; }
std::int64_t sized(std::uint64_t x) { return static_cast<std::int64_t>(x); }

/// floor(log2(x)), x > 0.
int log2_of(std::uint64_t x) {
  int log = 0;
  while (x > 1) {
    x /= 2;
    ++log;
  }
  return log;
}

}  // namespace

NaiveAllocator::NaiveAllocator(Device& device, Streams& streams, Options options)
    : device_{device}, streams_{streams}, version_{options.version}, settings_{options.settings} {
  set_limit(options.limit);
  const double fraction = settings_.per_process_memory_fraction;
  if (!options.limit && fraction < 1.0) {
    // 7.1
    allowed_ = static_cast<std::uint64_t>(
        std::floor(fraction * static_cast<double>(device.spec().total.count())));
  }
}

NaiveAllocator::~NaiveAllocator() = default;

void NaiveAllocator::set_limit(std::optional<Bytes> limit) {
  allowed_.reset();
  if (limit) {
    allowed_ = static_cast<std::uint64_t>(limit->count());
  }
}

// 14. Statistics ---------------------------------------------------------------------------------

void NaiveAllocator::Entry::increase(std::int64_t by) {
  current += by;
  peak = std::max(peak, current);
  allocated += by;
}
void NaiveAllocator::Entry::decrease(std::int64_t by) {
  current -= by;
  freed += by;
}
void NaiveAllocator::up(Stat stat, const Pool& pool, std::int64_t by) {
  stats_.at(stat)[0].increase(by);
  stats_.at(stat)[pool.small ? 1 : 2].increase(by);
}
void NaiveAllocator::down(Stat stat, const Pool& pool, std::int64_t by) {
  stats_.at(stat)[0].decrease(by);
  stats_.at(stat)[pool.small ? 1 : 2].decrease(by);
}
void NaiveAllocator::change(Stat stat, const Pool& pool, std::int64_t by) {
  if (by > 0) {
    up(stat, pool, by);
  } else {
    down(stat, pool, -by);
  }
}
std::int64_t NaiveAllocator::now(Stat stat) const { return stats_.at(stat)[0].current; }

// 2. Blocks and pools ----------------------------------------------------------------------------

NaiveAllocator::Block* NaiveAllocator::make_block() {
  auto block = std::make_unique<Block>();
  Block* pointer = block.get();
  blocks_.emplace(pointer, std::move(block));
  return pointer;
}

void NaiveAllocator::destroy_block(Block* block) { blocks_.erase(block); }

void NaiveAllocator::put(Block* block) {
  block->gc_count_base = block->pool->call_count;
  block->pool->blocks.insert(block);
}

// 3. Sizes ---------------------------------------------------------------------------------------

std::uint64_t NaiveAllocator::round_size(std::uint64_t n) const {
  if (n < 512) {
    return 512;
  }
  const int interval = std::clamp(log2_of(n) - 20, 0, 15);
  const std::uint64_t d = settings_.roundup_power2_divisions.at(static_cast<std::size_t>(interval));
  if (d > 1 && n > 512 * d) {
    std::uint64_t f = 1;
    while (f * 2 <= n) {
      f *= 2;
    }
    if (f == n) {
      return n;
    }
    const std::uint64_t q = f >> log2_of(d);
    if (q == 0) {
      return 2 * f;
    }
    const std::uint64_t base = n / q * q;
    return base == n ? n : base + q;
  }
  return rounded_up(n, 512);
}

std::uint64_t NaiveAllocator::allocation_size(std::uint64_t rounded) const {
  if (rounded <= kMiB) {
    return 2 * kMiB;
  }
  if (rounded < 10 * kMiB) {
    return settings_.large_segment_size;
  }
  return rounded_up(rounded, 2 * kMiB);
}

NaiveAllocator::Pool& NaiveAllocator::choose_pool(std::uint64_t size, StreamId stream) {
  // 3.2 and 13.2.
  std::vector<Diversion> in_order = diversions_;
  if (version_.newest_pool_first) {
    std::reverse(in_order.begin(), in_order.end());
  }
  for (const Diversion& diversion : in_order) {
    if (diversion.filter(stream)) {
      PrivatePool& pool = *private_pools_.at(diversion.id);
      return size <= kMiB ? pool.small : pool.large;
    }
  }
  return size <= kMiB ? small_ : large_;
}

bool NaiveAllocator::expandable_in_force(const Pool& pool) const {
  const bool has_own_allocator = pool.owner != nullptr && pool.owner->options.device != nullptr;
  return settings_.expandable_segments && !has_own_allocator;
}

bool NaiveAllocator::collects() const {
  return allowed_.has_value() && settings_.garbage_collection_threshold > 0;
}

// 4. malloc --------------------------------------------------------------------------------------

AllocOutcome NaiveAllocator::allocate(const AllocRequest& request) {
  const auto n = static_cast<std::uint64_t>(request.size.count());
  const auto failure = [&](std::uint64_t size, std::uint64_t asz, const Pool* pool) {
    std::uint64_t largest = 0;
    if (pool != nullptr) {
      for (const Block* block : pool->blocks) {
        if (block->stream == request.stream.value) {
          largest = std::max(largest, block->size);
        }
      }
    }
    return OutOfMemory{.requested = request.size,
                       .rounded = bytes(size),
                       .attempted = bytes(asz),
                       .device_free = device_.free_memory(),
                       .largest_free_block = bytes(largest),
                       .allocated = Bytes{now(allocated_bytes)},
                       .reserved = Bytes{now(reserved_bytes)}};
  };
  if (n >= (1ULL << 60)) {
    return failure(n, n, nullptr);
  }
  const std::uint32_t stream = request.stream.value;
  if (diversions_.empty()) {
    process_events();
  }
  const std::uint64_t size = round_size(n);
  Pool& pool = choose_pool(size, request.stream);
  const std::uint64_t asz = allocation_size(size);
  bool exp = expandable_in_force(pool);
  Block* found = get_free_block(pool, size, stream, exp);
  if (found == nullptr) {
    if (collects()) {
      garbage_collect();
    }
    found = alloc_block(pool, size, asz, stream, exp, false);
    if (found == nullptr && version_.fallback_to_pools) {
      found = mempool_fallback(pool, size, stream);
      if (found != nullptr) {
        exp = false;  // 13.5: "with expandable handling off ... from then on"
      }
    }
    if (found == nullptr && release_available_cached_blocks(pool, size, stream)) {
      found = alloc_block(pool, size, asz, stream, exp, false);
    }
    if (found == nullptr && diversions_.empty()) {
      release_cached_blocks(PoolId{0, 0});
      found = alloc_block(pool, size, asz, stream, exp, true);
    }
  }
  if (found == nullptr) {
    const OutOfMemory oom = failure(size, asz, &pool);
    emit(Action::oom, Address{static_cast<std::uint64_t>(oom.device_free.count())}, bytes(size),
         request.stream);
    ++num_ooms_;
    return oom;
  }
  return hand_out(found, size, n, should_split(*found, size, exp));
}

// 5. Lookup --------------------------------------------------------------------------------------

NaiveAllocator::Block* NaiveAllocator::get_free_block(Pool& pool, std::uint64_t size,
                                                      std::uint32_t stream, bool exp) {
  if (collects()) {
    ++pool.call_count;
  }
  Block key;
  key.stream = stream;
  key.size = size;
  auto it = pool.blocks.lower_bound(&key);
  if (it == pool.blocks.end() || (*it)->stream != stream) {
    return nullptr;
  }
  if ((*it)->segment != nullptr) {
    if (exp) {
      const auto room = [](const Block* b) {
        return b->size + (b->next != nullptr && !b->next->mapped ? b->next->size : 0);
      };
      auto nx = std::next(it);
      while ((*it)->segment != nullptr && nx != pool.blocks.end() && (*nx)->stream == stream &&
             room(*nx) < room(*it)) {
        it = nx;
        ++nx;
      }
    } else {
      do {
        ++it;
      } while (it != pool.blocks.end() && (*it)->segment != nullptr && (*it)->stream == stream);
      if (it == pool.blocks.end() || (*it)->stream != stream) {
        return nullptr;
      }
    }
  }
  Block* found = *it;
  if (size < settings_.max_split_size && found->size >= settings_.max_split_size) {
    return nullptr;
  }
  if (size >= settings_.max_split_size && found->size >= size + settings_.max_non_split_rounding) {
    return nullptr;
  }
  pool.blocks.erase(it);
  return found;
}

// 6. Split and hand-out --------------------------------------------------------------------------

bool NaiveAllocator::should_split(const Block& block, std::uint64_t size, bool exp) const {
  if (block.pool->owner != nullptr && block.pool->owner->options.no_split) {
    return false;
  }
  const std::uint64_t rest = block.size - size;
  if (block.pool->small || exp) {
    return rest >= 512;
  }
  return size < settings_.max_split_size && rest > kMiB;
}

Placement NaiveAllocator::hand_out(Block* block, std::uint64_t size, std::uint64_t n, bool split) {
  const bool was_split = block->is_split();
  Pool& pool = *block->pool;
  if (split) {
    Block* remainder = block;
    block = make_block();
    block->stream = remainder->stream;
    block->ptr = remainder->ptr;
    block->size = size;
    block->pool = &pool;
    block->segment = remainder->segment;
    block->prev = remainder->prev;
    if (block->prev != nullptr) {
      block->prev->next = block;
    }
    block->next = remainder;
    remainder->prev = block;
    remainder->ptr += size;
    remainder->size -= size;
    put(remainder);
    if (block->segment == nullptr) {
      if (was_split) {
        down(inactive_split_bytes, pool, sized(size));
      } else {
        up(inactive_split_bytes, pool, sized(remainder->size));
        up(inactive_split, pool, 1);
      }
    }
  } else if (was_split && block->segment == nullptr) {
    down(inactive_split_bytes, pool, sized(block->size));
    down(inactive_split, pool, 1);
  }
  block->allocated = true;
  block->requested_size = n;
  emit(Action::alloc, Address{block->ptr}, bytes(n), StreamId{block->stream});
  block->id = next_id_++;
  active_.emplace(block->id, block);
  up(allocation, pool, 1);
  up(allocated_bytes, pool, sized(block->size));
  up(active, pool, 1);
  up(active_bytes, pool, sized(block->size));
  up(requested_bytes, pool, sized(n));
  if (block->size >= settings_.max_split_size) {
    oversize_allocations_.increase(1);
  }
  return Placement{
      .block = BlockId{block->id}, .address = Address{block->ptr}, .size = bytes(block->size)};
}

// 7. Growing -------------------------------------------------------------------------------------

NaiveAllocator::Block* NaiveAllocator::alloc_block(Pool& pool, std::uint64_t size,
                                                   std::uint64_t asz, std::uint32_t stream,
                                                   bool exp, bool retry) {
  if (retry) {
    ++num_alloc_retries_;
  }
  if (allowed_ && total_allocated_memory_ + asz > *allowed_) {
    return nullptr;
  }
  if (exp) {
    Block* block = try_allocate_expandable(pool, stream, size);
    if (block != nullptr && pool.owner != nullptr) {
      ++pool.owner->device_allocations;
    }
    return block;
  }
  const bool own = pool.owner != nullptr && pool.owner->options.device != nullptr;
  const std::optional<Address> p =
      own ? pool.owner->options.device->acquire(bytes(asz)) : device_.acquire(bytes(asz));
  if (!p) {
    return nullptr;
  }
  if (pool.owner != nullptr) {
    ++pool.owner->device_allocations;
  }
  total_allocated_memory_ += asz;
  Block* block = make_block();
  block->stream = stream;
  block->ptr = p->value();
  block->size = asz;
  block->pool = &pool;
  up(segment, pool, 1);
  up(reserved_bytes, pool, sized(asz));
  if (asz >= settings_.max_split_size) {
    oversize_segments_.increase(1);
  }
  ++num_device_alloc_;
  emit(Action::segment_alloc, *p, bytes(asz), StreamId{stream});
  return block;
}

// 8. Free and merge ------------------------------------------------------------------------------

void NaiveAllocator::deallocate(BlockId id) {
  Block* block = active_.at(id.value);
  check(block->allocated, "freed twice");
  block->allocated = false;
  Pool& pool = *block->pool;
  down(allocation, pool, 1);
  down(allocated_bytes, pool, sized(block->size));
  emit(Action::free_requested, Address{block->ptr}, bytes(block->requested_size),
       StreamId{block->stream});
  if (block->size >= settings_.max_split_size) {
    oversize_allocations_.decrease(1);
  }
  if (block->stream_uses.empty()) {
    free_block(block);
  } else if (!diversions_.empty()) {
    deferred_.push_back(block);
  } else {
    insert_events(block);
  }
}

void NaiveAllocator::free_block(Block* block) {
  Pool& pool = *block->pool;
  emit(Action::free_completed, Address{block->ptr}, bytes(block->requested_size),
       StreamId{block->stream});
  const std::uint64_t original = block->size;
  const std::uint64_t requested = block->requested_size;
  std::int64_t count = 0;
  std::int64_t net = 0;
  Block* prev = block->prev;
  Block* next = block->next;
  for (Block* neighbour : {prev, next}) {
    const std::uint64_t absorbed = try_merge(block, neighbour);
    if (absorbed > 0) {
      count -= 1;
      net -= sized(absorbed);
    }
  }
  active_.erase(block->id);
  put(block);
  if (block->is_split()) {
    count += 1;
    net += sized(block->size);
  }
  if (block->segment == nullptr) {
    change(inactive_split, pool, count);
    change(inactive_split_bytes, pool, net);
  }
  down(active, pool, 1);
  down(active_bytes, pool, sized(original));
  down(requested_bytes, pool, sized(requested));
}

std::uint64_t NaiveAllocator::try_merge(Block* dst, Block* src) {
  if (src == nullptr || src->allocated || src->held() || src->mapped != dst->mapped) {
    return 0;
  }
  if (src->mapped) {
    src->pool->blocks.erase(src);
  } else {
    src->pool->unmapped.erase(src);
  }
  if (dst->prev == src) {
    dst->ptr = src->ptr;
    dst->prev = src->prev;
    if (dst->prev != nullptr) {
      dst->prev->next = dst;
    }
  } else {
    dst->next = src->next;
    if (dst->next != nullptr) {
      dst->next->prev = dst;
    }
  }
  const std::uint64_t absorbed = src->size;
  dst->size += absorbed;
  destroy_block(src);
  return absorbed;
}

// 9. Streams and events --------------------------------------------------------------------------

void NaiveAllocator::record_stream(BlockId id, StreamId stream) {
  Block* block = active_.at(id.value);
  if (stream.value == block->stream) {
    return;
  }
  block->stream_uses.insert(stream.value);
  if (!diversions_.empty()) {
    block->uses_in_capture.insert(stream.value);
  }
}

void NaiveAllocator::insert_events(Block* block) {
  const std::set<std::uint32_t> uses = std::move(block->stream_uses);
  block->stream_uses.clear();
  block->uses_in_capture.clear();
  for (const std::uint32_t use : uses) {
    ++block->event_count;
    events_[use].emplace_back(streams_.record(StreamId{use}), block);
  }
}

void NaiveAllocator::flush_deferred() {
  const std::vector<Block*> deferred = std::move(deferred_);
  deferred_.clear();
  for (Block* block : deferred) {
    for (const std::uint32_t use : block->uses_in_capture) {
      block->stream_uses.erase(use);
    }
    insert_events(block);
    if (block->event_count == 0) {
      free_block(block);
    }
  }
}

void NaiveAllocator::process_events() {
  flush_deferred();
  for (auto& [stream, queue] : events_) {
    while (!queue.empty() && streams_.completed(queue.front().first)) {
      const auto [event, block] = queue.front();
      queue.pop_front();
      streams_.forget(event);
      if (--block->event_count == 0) {
        free_block(block);
      }
    }
  }
}

void NaiveAllocator::poll() {
  if (diversions_.empty()) {
    process_events();
  }
}

void NaiveAllocator::synchronize_and_free_events(const PrivatePool* pool) {
  ++num_sync_all_streams_;
  flush_deferred();
  for (auto& [stream, queue] : events_) {
    std::deque<std::pair<EventId, Block*>> kept;
    for (const auto& [event, block] : queue) {
      if (pool != nullptr && block->pool->owner != pool) {
        kept.emplace_back(event, block);
        continue;
      }
      streams_.wait(event);
      streams_.forget(event);
      if (--block->event_count == 0) {
        free_block(block);
      }
    }
    queue = std::move(kept);
  }
}

// 10. Giving memory back -------------------------------------------------------------------------

void NaiveAllocator::garbage_collect() {
  const auto threshold = static_cast<std::uint64_t>(
      std::floor(settings_.garbage_collection_threshold * static_cast<double>(*allowed_)));
  if (total_allocated_memory_ <= threshold) {
    return;
  }
  const std::uint64_t target = total_allocated_memory_ - threshold;
  const auto age = [&](const Block* b) {
    return static_cast<double>(large_.call_count - b->gc_count_base);
  };
  double total_age = 0;
  std::int64_t k = 0;
  for (const Block* block : large_.blocks) {
    if (!block->is_split()) {
      total_age += age(block);
      ++k;
    }
  }
  std::uint64_t reclaimed = 0;
  bool progress = true;
  while (reclaimed < target && progress && k > 0) {
    const double cut = total_age / static_cast<double>(k);
    progress = false;
    for (auto it = large_.blocks.begin(); it != large_.blocks.end();) {
      Block* block = *it;
      ++it;
      if (!block->is_split() && block->segment == nullptr && age(block) >= cut) {
        progress = true;
        reclaimed += block->size;
        total_age -= age(block);
        --k;
        release_block(block);
      }
    }
  }
}

bool NaiveAllocator::release_available_cached_blocks(Pool& pool, std::uint64_t size,
                                                     std::uint32_t stream) {
  if (settings_.max_split_size == pytorch::Settings::kUnlimited) {
    return false;
  }
  Block key;
  key.stream = stream;
  key.size = std::max(size, settings_.max_split_size);
  auto it = pool.blocks.lower_bound(&key);
  if (it != pool.blocks.end() && (*it)->stream == stream && (*it)->segment == nullptr) {
    release_block(*it);
    return true;
  }
  if (it == pool.blocks.begin()) {
    return false;
  }
  --it;
  std::uint64_t got = 0;
  while (got < key.size && (*it)->size >= settings_.max_split_size && (*it)->stream == stream) {
    Block* cur = *it;
    const bool first = it == pool.blocks.begin();
    if (!first) {
      --it;
    }
    if (cur->segment == nullptr) {
      got += cur->size;
      release_block(cur);
    }
    if (first) {
      break;
    }
  }
  return got >= key.size;
}

void NaiveAllocator::release_block(Block* block) {
  Pool& pool = *block->pool;
  ++num_device_free_;
  emit(Action::segment_free, Address{block->ptr}, bytes(block->size), StreamId{block->stream});
  if (pool.owner != nullptr && pool.owner->options.device != nullptr) {
    pool.owner->options.device->release(Address{block->ptr});
  } else {
    device_.release(Address{block->ptr});
  }
  total_allocated_memory_ -= block->size;
  if (pool.owner != nullptr) {
    --pool.owner->device_allocations;
  }
  down(segment, pool, 1);
  down(reserved_bytes, pool, sized(block->size));
  if (block->size >= settings_.max_split_size) {
    oversize_segments_.decrease(1);
  }
  pool.blocks.erase(block);
  destroy_block(block);
}

void NaiveAllocator::release_cached_blocks(PoolId id) {
  const bool every = id == PoolId{0, 0};
  if (every && diversions_.empty()) {
    synchronize_and_free_events(nullptr);
    release_blocks(large_);
    release_blocks(small_);
  }
  for (auto it = private_pools_.begin(); it != private_pools_.end();) {
    PrivatePool& pool = *it->second;
    if (pool.use_count > 0 || (!every && pool.id != id)) {
      ++it;
      continue;
    }
    if (!every) {
      synchronize_and_free_events(&pool);
    }
    release_blocks(pool.small);
    release_blocks(pool.large);
    it = pool.device_allocations == 0 ? private_pools_.erase(it) : std::next(it);
  }
}

void NaiveAllocator::release_blocks(Pool& pool) {
  std::vector<Block*> expandable;
  for (auto it = pool.blocks.begin(); it != pool.blocks.end();) {
    Block* block = *it;
    ++it;
    if (block->segment != nullptr) {
      expandable.push_back(block);
    } else if (!block->is_split()) {
      release_block(block);
    }
  }
  for (Block* block : expandable) {
    ExpandableSegment* reservation = block->segment;
    unmap_block(block);
    if (block->prev == nullptr && block->next == nullptr && !block->mapped) {
      pool.unmapped.erase(block);
      device_.unreserve(Address{reservation->base}, bytes(reservation->size));
      destroy_block(block);
      segments_.erase(reservation);
    }
  }
}

void NaiveAllocator::empty_cache() { release_cached_blocks(PoolId{0, 0}); }

// 12. Expandable segments ------------------------------------------------------------------------

NaiveAllocator::Block* NaiveAllocator::find_expandable(Pool& pool, std::uint32_t stream,
                                                       std::uint64_t size) {
  const auto usable = [](const Block* b) { return b != nullptr && !b->allocated && !b->held(); };
  for (Block* u : pool.unmapped) {
    if (u->stream != stream) {
      continue;
    }
    Block* c = usable(u->prev) ? u->prev : u;
    std::uint64_t sum = 0;
    for (const Block* b = c; usable(b); b = b->next) {
      sum += b->size;
      if (sum >= size) {
        return c;
      }
    }
  }
  const auto total = static_cast<std::uint64_t>(device_.spec().total.count());
  auto made = std::make_unique<ExpandableSegment>();
  made->page = pool.small ? 2 * kMiB : settings_.large_segment_size;
  made->size = rounded_up(total + total / 8, made->page);
  const std::optional<Address> base = device_.reserve(bytes(made->size));
  check(base.has_value(), "no address space");
  made->base = base->value();
  Block* block = make_block();
  block->stream = stream;
  block->ptr = made->base;
  block->size = made->size;
  block->pool = &pool;
  block->mapped = false;
  block->segment = made.get();
  segments_.emplace(made.get(), std::move(made));
  pool.unmapped.insert(block);
  return block;
}

NaiveAllocator::Block* NaiveAllocator::try_allocate_expandable(Pool& pool, std::uint32_t stream,
                                                               std::uint64_t size) {
  Block* c = find_expandable(pool, stream, size);
  if (!c->mapped && !map_block(c, std::min(c->size, size))) {
    return nullptr;
  }
  while (c->size < size) {
    Block* n = c->next;
    if (!map_block(n, std::min(size - c->size, n->size))) {
      return nullptr;
    }
    c = n;
  }
  pool.blocks.erase(c);
  return c;
}

bool NaiveAllocator::map_block(Block* b, std::uint64_t want) {
  ExpandableSegment& reservation = *b->segment;
  Pool& pool = *b->pool;
  const std::uint64_t start = b->ptr;
  const std::uint64_t length = rounded_up(want, reservation.page);
  std::vector<PhysicalId> made;
  for (std::uint64_t at = 0; at < length; at += reservation.page) {
    const std::optional<PhysicalId> physical = device_.create(bytes(reservation.page));
    if (!physical) {
      for (const PhysicalId id : made) {
        device_.destroy(id);
      }
      return false;
    }
    made.push_back(*physical);
  }
  for (std::size_t i = 0; i < made.size(); ++i) {
    const std::uint64_t at = start + i * reservation.page;
    device_.map(Address{at}, made[i]);
    reservation.pages[at] = made[i];
  }
  pool.unmapped.erase(b);
  b->mapped = true;
  if (length < b->size) {
    Block* tail = make_block();
    tail->stream = b->stream;
    tail->ptr = b->ptr + length;
    tail->size = b->size - length;
    tail->pool = &pool;
    tail->mapped = false;
    tail->segment = b->segment;
    tail->prev = b;
    tail->next = b->next;
    if (tail->next != nullptr) {
      tail->next->prev = tail;
    }
    b->next = tail;
    b->size = length;
    pool.unmapped.insert(tail);
  }
  Block* prev = b->prev;
  Block* next = b->next;
  try_merge(b, prev);
  try_merge(b, next);
  put(b);
  total_allocated_memory_ += length;
  up(reserved_bytes, pool, sized(length));
  ++num_device_alloc_;
  emit(Action::segment_map, Address{start}, bytes(length), StreamId{b->stream});
  return true;
}

void NaiveAllocator::unmap_block(Block* b) {
  ExpandableSegment& reservation = *b->segment;
  Pool& pool = *b->pool;
  const std::uint64_t end = b->ptr + b->size;
  const std::uint64_t lo =
      reservation.base + rounded_up(b->ptr - reservation.base, reservation.page);
  const std::uint64_t hi =
      reservation.base + (end - reservation.base) / reservation.page * reservation.page;
  if (lo >= hi) {
    return;
  }
  streams_.synchronize(StreamId{b->stream});
  for (std::uint64_t at = lo; at < hi; at += reservation.page) {
    device_.unmap(Address{at}, bytes(reservation.page));
    device_.destroy(reservation.pages.at(at));
    reservation.pages.erase(at);
  }
  pool.blocks.erase(b);
  const auto piece = [&](std::uint64_t from, std::uint64_t to) {
    Block* block = make_block();
    block->stream = b->stream;
    block->ptr = from;
    block->size = to - from;
    block->pool = &pool;
    block->segment = b->segment;
    return block;
  };
  if (lo > b->ptr) {
    Block* head = piece(b->ptr, lo);
    head->prev = b->prev;
    head->next = b;
    if (head->prev != nullptr) {
      head->prev->next = head;
    }
    b->prev = head;
    put(head);
  }
  if (end > hi) {
    Block* tail = piece(hi, end);
    tail->prev = b;
    tail->next = b->next;
    if (tail->next != nullptr) {
      tail->next->prev = tail;
    }
    b->next = tail;
    put(tail);
  }
  b->ptr = lo;
  b->size = hi - lo;
  b->mapped = false;
  Block* prev = b->prev;
  Block* next = b->next;
  try_merge(b, prev);
  try_merge(b, next);
  pool.unmapped.insert(b);
  total_allocated_memory_ -= hi - lo;
  down(reserved_bytes, pool, sized(hi - lo));
  if (pool.owner != nullptr) {
    --pool.owner->device_allocations;
  }
  ++num_device_free_;
  emit(Action::segment_unmap, Address{lo}, bytes(hi - lo), StreamId{b->stream});
}

// 13. Private pools ------------------------------------------------------------------------------

NaiveAllocator::PoolId NaiveAllocator::create_pool(const MemPoolOptions& options) {
  auto pool = std::make_unique<PrivatePool>();
  pool->id = PoolId{0, ++pools_made_};
  pool->options = options;
  pool->use_count = 1;
  pool->small.owner = pool.get();
  pool->large.owner = pool.get();
  const PoolId id = pool->id;
  private_pools_.emplace(id, std::move(pool));
  return id;
}

void NaiveAllocator::destroy_pool(PoolId id) {
  private_pools_.at(id)->options.use_on_oom = false;
  release_pool(id);
  release_cached_blocks(id);
}

void NaiveAllocator::begin_allocate_to_pool(PoolId id, std::function<bool(StreamId)> filter) {
  ++private_pools_.at(id)->use_count;
  diversions_.push_back(Diversion{id, std::move(filter)});
}

void NaiveAllocator::end_allocate_to_pool(PoolId id) {
  std::erase_if(diversions_, [&](const Diversion& d) { return d.id == id; });
  release_pool(id);
}

void NaiveAllocator::release_pool(PoolId id) { --private_pools_.at(id)->use_count; }

NaiveAllocator::Block* NaiveAllocator::mempool_fallback(const Pool& pool, std::uint64_t size,
                                                        std::uint32_t stream) {
  if (pool.owner != nullptr) {
    return nullptr;
  }
  for (auto& [id, candidate] : private_pools_) {
    if (candidate->options.use_on_oom) {
      Pool& other = size <= kMiB ? candidate->small : candidate->large;
      Block* found = get_free_block(other, size, stream, false);
      if (found != nullptr) {
        return found;
      }
    }
  }
  return nullptr;
}

// What the tests look at -------------------------------------------------------------------------

std::vector<std::int64_t> NaiveAllocator::memory_stats() const {
  std::vector<std::int64_t> values;
  const auto append = [&](const Entry& e) {
    values.insert(values.end(), {e.current, e.peak, e.allocated, e.freed});
  };
  for (const auto& stat : stats_) {
    for (const Entry& entry : stat) {
      append(entry);
    }
  }
  append(oversize_allocations_);
  append(oversize_segments_);
  values.insert(values.end(), {num_alloc_retries_, num_ooms_, num_device_alloc_, num_device_free_,
                               num_sync_all_streams_});
  return values;
}

const Statistics& NaiveAllocator::statistics() const {
  const auto level = [&](Stat stat) {
    const Entry& entry = stats_.at(stat)[0];
    return Level{.current = entry.current, .peak = entry.peak, .allocated = entry.allocated};
  };
  statistics_ = Statistics{.requested = level(requested_bytes),
                           .allocated = level(allocated_bytes),
                           .active = level(active_bytes),
                           .reserved = level(reserved_bytes),
                           .inactive_split = level(inactive_split_bytes),
                           .segments = level(segment),
                           .allocations = level(allocation),
                           .num_alloc_retries = num_alloc_retries_,
                           .num_ooms = num_ooms_,
                           .num_device_alloc = num_device_alloc_,
                           .num_device_free = num_device_free_,
                           .num_sync_all_streams = num_sync_all_streams_};
  return statistics_;
}

HeapView NaiveAllocator::view() const {
  // 16: an entry starts at each free or active block that has no mapped block in front of it.
  std::map<std::uint64_t, const Block*> starts;
  const auto consider = [&](const Block* block) {
    if (block->prev == nullptr || !block->prev->mapped) {
      starts.emplace(block->ptr, block);
    }
  };
  const auto consider_pool = [&](const Pool& pool) {
    for (const Block* block : pool.blocks) {
      consider(block);
    }
  };
  consider_pool(small_);
  consider_pool(large_);
  for (const auto& [id, pool] : private_pools_) {
    consider_pool(pool->small);
    consider_pool(pool->large);
  }
  for (const auto& [id, block] : active_) {
    consider(block);
  }
  HeapView heap;
  for (const auto& [address, first] : starts) {
    SegmentView view{.address = Address{address},
                     .size = {},
                     .stream = StreamId{first->stream},
                     .expandable = first->segment != nullptr,
                     .small_pool = first->pool->small,
                     .blocks = {}};
    for (const Block* block = first; block != nullptr && block->mapped; block = block->next) {
      view.size += bytes(block->size);
      view.blocks.push_back(BlockView{.address = Address{block->ptr},
                                      .size = bytes(block->size),
                                      .requested = bytes(block->requested_size),
                                      .state = block->allocated ? BlockState::allocated
                                               : block->held()  ? BlockState::pending
                                                                : BlockState::free,
                                      .stream = StreamId{block->stream}});
    }
    heap.segments.push_back(std::move(view));
  }
  return heap;
}

}  // namespace peakcast::support
