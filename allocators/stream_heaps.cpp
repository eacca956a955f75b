#include "allocators/stream_heaps.hpp"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {

StreamHeaps::StreamHeaps(Device& device, Streams& streams, Options options, MakeHeap make_heap)
    : device_{device}, streams_{streams}, options_{options}, make_heap_{std::move(make_heap)} {}

StreamHeaps::~StreamHeaps() {
  for (const auto& [stream, queue] : pending_) {
    for (const Pending& pending : queue) {
      streams_.forget(pending.event);
    }
  }
}

StreamHeap& StreamHeaps::heap_of(StreamId stream) {
  const std::size_t index = options_.one_heap ? 0 : stream.value;
  if (index >= heaps_.size()) {
    heaps_.resize(index + 1);
  }
  if (heaps_[index] == nullptr) [[unlikely]] {
    heaps_[index] = make_heap_(*this, stream);
    if (iteration_ >= 0) {
      heaps_[index]->begin_iteration(iteration_);
    }
  }
  return *heaps_[index];
}

AllocOutcome StreamHeaps::allocate(const AllocRequest& request) {
  if (pending_count_ > 0) [[unlikely]] {
    poll();
  }
  StreamHeap& heap = heap_of(request.stream);
  // More than the card holds can only fail; it is kept from the heaps' arithmetic.
  const bool sensible = request.size <= device_.spec().total;
  attempted_ = request.size;
  std::optional<Grant> grant = sensible ? heap.take(request.size) : std::nullopt;
  if (!grant && sensible && !options_.fails_at_once) [[unlikely]] {
    ++statistics_.num_alloc_retries;
    wait_for_all();
    trim_all();
    grant = heap.take(request.size);
  }
  if (!grant) [[unlikely]] {
    ++statistics_.num_ooms;
    const Bytes rounded = sensible ? heap.rounded(request.size) : request.size;
    const Bytes device_free = device_.free_memory();
    emit(Action::oom, Address{static_cast<std::uint64_t>(device_free.count())}, rounded,
         request.stream);
    return OutOfMemory{.requested = request.size,
                       .rounded = rounded,
                       .attempted = attempted_,
                       .device_free = device_free,
                       .largest_free_block = heap.largest_free(),
                       .allocated = Bytes{statistics_.allocated.current},
                       .reserved = Bytes{statistics_.reserved.current}};
  }
  const std::uint32_t slot = live_.take();
  Live& live = live_[slot];
  live.grant = *grant;
  live.requested = request.size;
  live.stream = request.stream;
  live.heap = &heap;
  live.events = 0;
  live.state = BlockState::allocated;
  statistics_.requested.increase(request.size.count());
  statistics_.allocated.increase(grant->size.count());
  statistics_.active.increase(grant->size.count());
  statistics_.allocations.increase(1);
  emit(Action::alloc, grant->address, request.size, request.stream);
  return Placement{BlockId{slot}, grant->address, grant->size};
}

void StreamHeaps::deallocate(BlockId block) {
  Live& live = live_[block.value];
  check(live.state == BlockState::allocated, "deallocate of a block that is not allocated");
  statistics_.allocated.decrease(live.grant.size.count());
  statistics_.allocations.decrease(1);
  emit(Action::free_requested, live.grant.address, live.requested, live.stream);
  if (!live.uses.empty() && !options_.frees_wait) {
    live.state = BlockState::pending;
    for (const StreamId stream : live.uses) {
      pending_[stream].push_back({streams_.record(stream), block.value});
      ++live.events;
      ++pending_count_;
    }
    live.uses.clear();
    return;
  }
  live.uses.clear();
  finish(block.value);
}

void StreamHeaps::finish(std::uint32_t slot) {
  Live& live = live_[slot];
  statistics_.active.decrease(live.grant.size.count());
  statistics_.requested.decrease(live.requested.count());
  emit(Action::free_completed, live.grant.address, live.requested, live.stream);
  live.state = BlockState::free;
  live.heap->give(live.grant.block);
  live_.give_back(slot);
}

void StreamHeaps::record_stream(BlockId block, StreamId stream) {
  Live& live = live_[block.value];
  check(live.state == BlockState::allocated, "record_stream of a block that is not allocated");
  if (stream != live.stream &&
      std::find(live.uses.begin(), live.uses.end(), stream) == live.uses.end()) {
    live.uses.push_back(stream);
  }
}

void StreamHeaps::poll() {
  if (pending_count_ == 0) {
    return;
  }
  const bool in_order = streams_.in_order();
  for (auto& [stream, queue] : pending_) {
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
      if (--live_[pending.slot].events == 0) {
        finish(pending.slot);
      }
    }
  }
}

void StreamHeaps::wait_for_all() {
  ++statistics_.num_sync_all_streams;
  for (auto& [stream, queue] : pending_) {
    for (const Pending& pending : queue) {
      streams_.wait(pending.event);
      streams_.forget(pending.event);
      --pending_count_;
      if (--live_[pending.slot].events == 0) {
        finish(pending.slot);
      }
    }
    queue.clear();
  }
}

bool StreamHeaps::trim_all() {
  bool any = false;
  for (const auto& heap : heaps_) {
    any = (heap != nullptr && heap->trim()) || any;
  }
  return any;
}

void StreamHeaps::empty_cache() {
  wait_for_all();
  trim_all();
}

void StreamHeaps::begin_iteration(std::int64_t index) {
  iteration_ = index;
  for (const auto& heap : heaps_) {
    if (heap != nullptr) {
      heap->begin_iteration(index);
    }
  }
}

HeapView StreamHeaps::view() const {
  HeapView view;
  for (const auto& heap : heaps_) {
    if (heap != nullptr) {
      heap->append_to(view);
    }
  }
  // The heaps do not know what was requested, nor by which stream, nor what is pending.
  std::unordered_map<std::uint64_t, std::uint32_t> by_address;
  for (std::uint32_t slot = 0; slot < live_.size(); ++slot) {
    if (live_[slot].state != BlockState::free) {
      by_address.emplace(live_[slot].grant.address.value(), slot);
    }
  }
  for (SegmentView& segment : view.segments) {
    for (BlockView& block : segment.blocks) {
      const auto found = by_address.find(block.address.value());
      if (block.state != BlockState::free && found != by_address.end()) {
        const Live& live = live_[found->second];
        block.requested = std::min(live.requested, block.size);
        block.state = live.state;
        block.stream = live.stream;
      }
    }
  }
  std::sort(view.segments.begin(), view.segments.end(),
            [](const SegmentView& a, const SegmentView& b) { return a.address < b.address; });
  return view;
}

bool StreamHeaps::within_limit(Bytes more) const {
  return !options_.limit || Bytes{statistics_.reserved.current} + more <= *options_.limit;
}

std::optional<Address> StreamHeaps::acquire(Bytes size, StreamId stream) {
  attempted_ = size;
  if (!within_limit(size)) {
    return std::nullopt;
  }
  const std::optional<Address> address = device_.acquire(size);
  if (address) {
    ++statistics_.num_device_alloc;
    statistics_.reserved.increase(size.count());
    statistics_.segments.increase(1);
    emit(Action::segment_alloc, *address, size, stream);
  }
  return address;
}

void StreamHeaps::release(Address address, Bytes size, StreamId stream) {
  device_.release(address);
  ++statistics_.num_device_free;
  statistics_.reserved.decrease(size.count());
  statistics_.segments.decrease(1);
  emit(Action::segment_free, address, size, stream);
}

std::optional<PhysicalId> StreamHeaps::create(Bytes size) {
  attempted_ = size;
  if (!within_limit(size)) {
    return std::nullopt;
  }
  const std::optional<PhysicalId> physical = device_.create(size);
  if (physical) {
    ++statistics_.num_device_alloc;
    statistics_.reserved.increase(size.count());
  }
  return physical;
}

void StreamHeaps::destroy(PhysicalId physical, Bytes size) {
  device_.destroy(physical);
  ++statistics_.num_device_free;
  statistics_.reserved.decrease(size.count());
}

void StreamHeaps::count_reserved(Bytes change) {
  if (change > Bytes{}) {
    statistics_.reserved.increase(change.count());
  } else {
    statistics_.reserved.decrease(-change.count());
  }
}

void StreamHeaps::count_segments(std::int64_t change) {
  if (change > 0) {
    statistics_.num_device_alloc += change;
    statistics_.segments.increase(change);
  } else {
    statistics_.num_device_free -= change;
    statistics_.segments.decrease(-change);
  }
}

void StreamHeaps::count_transfer(Bytes moved, SimDuration time) {
  transfers_.bytes += moved;
  transfers_.time += time;
}

}  // namespace peakcast
