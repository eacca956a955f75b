#include "sim/device/address_source.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

constexpr std::uint64_t kChunkUnit = 32ULL << 20;
constexpr std::uint64_t kPage = 2ULL << 20;

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

constexpr std::int64_t kSmall = 1 << 20;

/// How much address space an allocation takes: small ones share a page in steps of 512 bytes.
constexpr std::uint64_t footprint(Bytes size) {
  return up(static_cast<std::uint64_t>(size.count()), size.count() <= kSmall ? 512 : kPage);
}

/// What the context leaves, and local memory: see ModelledAddresses.
constexpr Bytes kReserved{0x204000000};
constexpr Bytes kMapped{37 << 20};
constexpr std::uint64_t kThreads = 144ULL * 2048;
constexpr Bytes kFirstLocalMemory{1472};
/// More than a card has; a trace cannot fill the address space.
constexpr Bytes kMostDriverMemory{std::int64_t{1} << 40};

constexpr std::uint64_t local_memory_size(Bytes per_thread) {
  return up(kThreads * static_cast<std::uint64_t>(per_thread.count()), kPage);
}

/// Half way between two multiples of a chunk's unit: any place is as likely.
constexpr Address kTop{0x7f8000000000 - kChunkUnit / 2};
/// A device address has 47 bits.
constexpr std::uint64_t kEnd = std::uint64_t{1} << 47;
/// Of the mmap area. Enough for all that is ever mapped.
constexpr std::uint64_t kSpace = std::uint64_t{1} << 45;

}  // namespace

ModelledAddresses::ModelledAddresses() : ModelledAddresses{kTop, Address{0x302000000}} {}

ModelledAddresses::ModelledAddresses(Address top, Address first_reservation)
    : top_{top.value()},
      space_{Address{top.value() > kSpace ? top.value() - kSpace : 0}, top},
      next_reservation_{first_reservation.value()} {}

void ModelledAddresses::make_context() {
  if (has_context_) {
    return;
  }
  has_context_ = true;
  for (const Bytes size : {kReserved, kMapped}) {
    check(space_.map(size).has_value(), "the modelled address space is full");
  }
  static_cast<void>(open_chunk(kChunkUnit));
  static_cast<void>(open_chunk(72ULL << 20));
  local_memory_per_thread_ = kFirstLocalMemory;
  local_memory_ = open_chunk(local_memory_size(local_memory_per_thread_)).value_or(0);
}

void ModelledAddresses::host_allocate(std::uint32_t buffer, Bytes size) {
  heap_.allocate(space_, buffer, size);
}

void ModelledAddresses::host_free(std::uint32_t buffer) { heap_.free(space_, buffer); }

void ModelledAddresses::driver_memory(Bytes size) {
  make_context();
  if (size <= kMostDriverMemory - driver_memory_) {
    driver_memory_ += size;
    static_cast<void>(take(up(static_cast<std::uint64_t>(size.count()), kPage)));
  }
}

void ModelledAddresses::local_memory(Bytes per_thread) {
  make_context();
  if (per_thread > local_memory_per_thread_) {
    put(local_memory_, local_memory_size(local_memory_per_thread_));
    local_memory_per_thread_ = per_thread;
    const auto place = take(local_memory_size(per_thread));
    check(place.has_value(), "room for one kernel's local memory");
    local_memory_ = *place;
  }
}

std::optional<Address> ModelledAddresses::acquire(Bytes size) {
  make_context();
  const std::uint64_t need = footprint(size);
  if (size.count() > kSmall) {
    const auto place = take(need);
    return place ? std::optional{Address{*place}} : std::nullopt;
  }
  for (auto& [base, page] : small_pages_) {
    for (auto hole = page.begin(); hole != page.end(); ++hole) {
      const auto [start, room] = *hole;
      if (room >= need) {
        page.erase(hole);
        if (room > need) {
          page.emplace(start + need, room - need);
        }
        return Address{start};
      }
    }
  }
  const std::optional<std::uint64_t> page = take(kPage);
  if (!page) {
    return std::nullopt;
  }
  const std::uint64_t base = *page;
  small_pages_[base].emplace(base + need, kPage - need);
  return Address{base};
}

std::optional<std::uint64_t> ModelledAddresses::take(std::uint64_t need) {
  for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk) {
    if (chunk->largest_hole_bound < need) {
      continue;
    }
    std::uint64_t largest = 0;
    auto best = chunk->holes.end();
    for (auto hole = chunk->holes.begin(); hole != chunk->holes.end(); ++hole) {
      largest = std::max(largest, hole->second);
      if (hole->second >= need && (best == chunk->holes.end() || hole->second < best->second)) {
        best = hole;
      }
    }
    chunk->largest_hole_bound = largest;
    if (best != chunk->holes.end()) {
      const auto [start, room] = *best;
      chunk->holes.erase(best);
      if (room > need) {
        chunk->holes.emplace(start + need, room - need);
      }
      return start;
    }
  }
  return open_chunk(need);
}

std::optional<std::uint64_t> ModelledAddresses::open_chunk(std::uint64_t need) {
  const std::uint64_t size = up(need, kChunkUnit);
  const std::optional<Address> base = space_.map_aligned(
      Bytes{static_cast<std::int64_t>(size)}, Bytes{static_cast<std::int64_t>(kChunkUnit)});
  if (!base) {
    return std::nullopt;
  }
  Chunk chunk{.base = base->value(), .size = size, .holes = {}, .largest_hole_bound = size - need};
  if (size > need) {
    chunk.holes.emplace(chunk.base + need, size - need);
  }
  chunks_.push_back(std::move(chunk));
  return base->value();
}

void ModelledAddresses::release(Address address, Bytes size) {
  if (kept_clear_.erase(address.value()) > 0) {
    return;
  }
  if (size.count() > kSmall) {
    put(address.value(), footprint(size));
    return;
  }
  const std::uint64_t base = address.value() / kPage * kPage;
  const auto page = small_pages_.find(base);
  check(page != small_pages_.end(), "release of an address that was not given");
  if (add_range(page->second, address.value(), footprint(size)) == kPage) {
    small_pages_.erase(page);
    put(base, kPage);
  }
}

void ModelledAddresses::put(std::uint64_t start, std::uint64_t size) {
  const auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [start](const Chunk& c) {
    return start >= c.base && start < c.base + c.size;
  });
  check(chunk != chunks_.end(), "release of an address that was not given");
  const std::uint64_t hole_size = add_range(chunk->holes, start, size);
  if (hole_size == chunk->size) {
    space_.unmap(Address{chunk->base}, Bytes{static_cast<std::int64_t>(chunk->size)});
    chunks_.erase(chunk);
    return;
  }
  chunk->largest_hole_bound = std::max(chunk->largest_hole_bound, hole_size);
}

std::optional<Address> ModelledAddresses::reserve(Bytes size) {
  const std::uint64_t length = up(static_cast<std::uint64_t>(size.count()), kChunkUnit);
  // Below the mmap area, unless the first lies above it.
  const std::uint64_t bottom = top_ > kSpace ? top_ - kSpace : 0;
  const std::uint64_t end = next_reservation_ <= bottom ? bottom : kEnd;
  if (length <= end && next_reservation_ <= end - length) {
    const Address address{next_reservation_};
    next_reservation_ += length;
    return address;
  }
  const auto hole =
      std::find_if(left_reservations_.begin(), left_reservations_.end(),
                   [length](const auto& candidate) { return candidate.second >= length; });
  if (hole == left_reservations_.end()) {
    return std::nullopt;
  }
  const auto [start, room] = *hole;
  left_reservations_.erase(hole);
  if (room > length) {
    left_reservations_.emplace(start + length, room - length);
  }
  return Address{start};
}

void ModelledAddresses::unreserve(Address address, Bytes size) {
  // The newest reservation's range is used again at once.
  const std::uint64_t length = up(static_cast<std::uint64_t>(size.count()), kChunkUnit);
  if (address.value() + length == next_reservation_) {
    next_reservation_ = address.value();
  } else {
    add_range(left_reservations_, address.value(), length);
  }
}

void ModelledAddresses::go_below(Address address) {
  const std::uint64_t top = address.value() / kChunkUnit * kChunkUnit;
  // Made-up recordings have addresses that leave no room below them: those lie below the area.
  if (!has_context_ && top >= kSpace && top < top_) {
    top_ = top;
    space_ = AddressSpace{Address{top - kSpace}, Address{top}};
  }
}

void ModelledAddresses::keep_clear(Address address, Bytes /*size*/) {
  go_below(address);
  kept_clear_.insert(address.value());
}

void ModelledAddresses::keep_clear_reservation(Address address, Bytes size) {
  next_reservation_ = std::max(next_reservation_, up((address + size).value(), kChunkUnit));
}

bool ModelledAddresses::gave(Address address) const {
  return std::any_of(chunks_.begin(), chunks_.end(), [address](const Chunk& chunk) {
    return address.value() >= chunk.base && address.value() < chunk.base + chunk.size;
  });
}

namespace {

bool is_call(Action action) {
  return action == Action::segment_alloc || action == Action::segment_free ||
         action == Action::segment_map || action == Action::segment_unmap;
}

}  // namespace

RecordedAddresses::RecordedAddresses(const Recording& recording)
    : recording_{recording}, op_event_{recording.events.size()} {
  std::uint64_t lowest_call = 1ULL << 46;
  std::uint64_t highest_map = 0x302000000;
  for (std::size_t i = 0; i < recording.events.size(); ++i) {
    const AllocatorEvent& event = recording.events[i];
    const std::uint64_t address = event.address.value();
    if (is_call(event.action) && (event.address + event.size).value() > kEnd) {
      parted_at_ = 0;  // no card has such addresses: none of them is used
      calls_.clear();
      break;
    }
    switch (event.action) {
      case Action::segment_alloc:
        calls_.push_back(i);
        lowest_call = std::min<std::uint64_t>(lowest_call, address);
        break;
      case Action::segment_map:
        calls_.push_back(i);
        highest_map = std::max<std::uint64_t>(highest_map, up(address, kChunkUnit) + (1ULL << 40));
        break;
      case Action::segment_free:
        calls_.push_back(i);
        lowest_call = std::min<std::uint64_t>(lowest_call, address);
        break;
      case Action::segment_unmap:
        calls_.push_back(i);
        break;
      default:
        break;
    }
  }
  for (const RecordedSegment& segment : recording.segments) {
    const std::uint64_t address = segment.address.value();
    if ((segment.address + segment.size).value() > kEnd) {
      continue;
    }
    if (segment.expandable) {
      highest_map = std::max<std::uint64_t>(highest_map, up(address, kChunkUnit) + (1ULL << 40));
    } else {
      lowest_call = std::min<std::uint64_t>(lowest_call, address);
    }
  }
  // Made-up recordings have addresses that leave no room below them.
  const Address top = lowest_call < kSpace ? kTop : Address{lowest_call / kChunkUnit * kChunkUnit};
  modelled_ = ModelledAddresses{top, Address{highest_map}};
}

void RecordedAddresses::begin_op(std::size_t event) { op_event_ = event; }

const AllocatorEvent* RecordedAddresses::next() const {
  if (cursor_ < calls_.size() && calls_[cursor_] < op_event_) {
    return &recording_.events[calls_[cursor_]];
  }
  return nullptr;
}

void RecordedAddresses::advance() {
  ++cursor_;
  done_ = Bytes{};
}

void RecordedAddresses::part() {
  if (!parted_at_) {
    parted_at_ = cursor_ < calls_.size() ? std::min(calls_[cursor_], op_event_) : op_event_;
  }
}

bool RecordedAddresses::refuse() {
  const AllocatorEvent* call = next();
  const bool gives_back_first = call != nullptr && (call->action == Action::segment_free ||
                                                    call->action == Action::segment_unmap);
  const bool fails = call == nullptr && op_event_ < recording_.events.size() &&
                     recording_.events[op_event_].action == Action::oom;
  if (gives_back_first || fails) {
    if (refusals_.empty() || refusals_.back() != op_event_) {
      refusals_.push_back(op_event_);
    }
    return true;
  }
  return false;
}

std::optional<Address> RecordedAddresses::acquire(Bytes size) {
  if (!parted_at_) {
    const AllocatorEvent* call = next();
    if (call != nullptr && call->action == Action::segment_alloc && call->size == size) {
      const Address address = call->address;
      advance();
      return address;
    }
    if (refuse()) {
      return std::nullopt;
    }
    part();
  }
  return modelled_.acquire(size);
}

void RecordedAddresses::release(Address address, Bytes size) {
  if (!parted_at_) {
    const AllocatorEvent* call = next();
    if (call != nullptr && call->action == Action::segment_free && call->address == address) {
      advance();
      return;
    }
    part();
  }
  if (modelled_.gave(address)) {
    modelled_.release(address, size);
  }
}

std::optional<Address> RecordedAddresses::reserve(Bytes size) {
  if (!parted_at_) {
    const AllocatorEvent* call = next();
    if (call != nullptr && call->action == Action::segment_map) {
      const Address end = call->address + size;
      const auto after = reserved_.lower_bound(call->address);
      if ((after == reserved_.end() || after->first >= end) &&
          (after == reserved_.begin() || std::prev(after)->second <= call->address)) {
        reserved_.emplace(call->address, end);
        return call->address;
      }
      part();  // the mapping is of a reservation that the policy has already
    }
    // A refused first mapping leaves no trace of where its reservation was.
  }
  return modelled_.reserve(size);
}

void RecordedAddresses::unreserve(Address address, Bytes size) {
  if (reserved_.erase(address) == 0) {
    modelled_.unreserve(address, size);
  }
}

void RecordedAddresses::keep_clear_reservation(Address address, Bytes size) {
  reserved_.emplace(address, address + size);
}

bool RecordedAddresses::create() {
  if (parted_at_) {
    return true;
  }
  const AllocatorEvent* call = next();
  if (call != nullptr && call->action == Action::segment_map) {
    return true;
  }
  if (refuse()) {
    return false;
  }
  part();
  return true;
}

void RecordedAddresses::consume(Action action, Address address, Bytes size) {
  if (parted_at_) {
    return;
  }
  const AllocatorEvent* call = next();
  if (call == nullptr || call->action != action || call->address + done_ != address ||
      done_ + size > call->size) {
    part();
    return;
  }
  done_ += size;
  if (done_ == call->size) {
    advance();
  }
}

void RecordedAddresses::map(Address address, Bytes size) {
  consume(Action::segment_map, address, size);
}

void RecordedAddresses::unmap(Address address, Bytes size) {
  consume(Action::segment_unmap, address, size);
}

}  // namespace peakcast
