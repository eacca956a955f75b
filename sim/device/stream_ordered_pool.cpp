#include "sim/device/stream_ordered_pool.hpp"

#include <algorithm>
#include <iterator>

#include "sim/core/check.hpp"
#include "sim/device/simulated_device.hpp"

namespace peakcast {

using namespace literals;

std::optional<Address> StreamOrderedPool::allocate(Bytes size, StreamId /*stream*/) {
  const auto need = static_cast<std::uint64_t>(round_up(size, 512_B).count());
  // Best fit; ties by address.
  auto best = holes_.end();
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    if (hole->second >= need && (best == holes_.end() || hole->second < best->second)) {
      best = hole;
    }
  }
  if (best == holes_.end()) {
    // The hole at the end of the pool grows by what it lacks.
    std::uint64_t tail = 0;
    if (!holes_.empty() && holes_.rbegin()->first + holes_.rbegin()->second == next_) {
      tail = holes_.rbegin()->second;
    }
    const Bytes growth = round_up(Bytes{static_cast<std::int64_t>(need - tail)}, 32_MiB);
    if (!device_.take(growth)) {
      return std::nullopt;
    }
    reserved_ += growth;
    grown_.emplace(next_, static_cast<std::uint64_t>(growth.count()));
    if (tail != 0) {
      holes_.rbegin()->second += static_cast<std::uint64_t>(growth.count());
    } else {
      holes_.emplace(next_, static_cast<std::uint64_t>(growth.count()));
    }
    next_ += static_cast<std::uint64_t>(growth.count());
    best = std::prev(holes_.end());
  }
  const auto [start, room] = *best;
  holes_.erase(best);
  if (room > need) {
    holes_.emplace(start + need, room - need);
  }
  live_.emplace(start, need);
  return Address{start};
}

void StreamOrderedPool::free(Address address, StreamId /*stream*/) {
  const auto live = live_.find(address.value());
  check(live != live_.end(), "pool_free of an address that was not given");
  std::uint64_t start = live->first;
  std::uint64_t size = live->second;
  live_.erase(live);
  auto after = holes_.lower_bound(start);
  if (after != holes_.end() && after->first == start + size) {
    size += after->second;
    after = holes_.erase(after);
  }
  if (after != holes_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == start) {
      start = before->first;
      size += before->second;
      holes_.erase(before);
    }
  }
  holes_.emplace(start, size);
}

void StreamOrderedPool::trim(Bytes keep) {
  // Whole growths that lie in one hole go back, the newest first.
  for (auto growth = grown_.rbegin(); growth != grown_.rend() && reserved_ > keep;) {
    const auto [start, size] = *growth;
    auto hole = holes_.upper_bound(start);
    const bool free = hole != holes_.begin() && std::prev(hole)->first <= start &&
                      std::prev(hole)->first + std::prev(hole)->second >= start + size;
    if (!free) {
      ++growth;
      continue;
    }
    const auto [hole_start, hole_size] = *std::prev(hole);
    holes_.erase(std::prev(hole));
    if (hole_start < start) {
      holes_.emplace(hole_start, start - hole_start);
    }
    if (start + size < hole_start + hole_size) {
      holes_.emplace(start + size, hole_start + hole_size - start - size);
    }
    if (start + size == next_) {
      next_ = start;
    }
    device_.give(Bytes{static_cast<std::int64_t>(size)});
    reserved_ -= Bytes{static_cast<std::int64_t>(size)};
    growth = std::make_reverse_iterator(grown_.erase(std::prev(growth.base())));
  }
}

}  // namespace peakcast
