#include "sim/device/stream_ordered_pool.hpp"

#include <iterator>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/device/simulated_device.hpp"

namespace peakcast {
namespace {

constexpr std::uint64_t kStep = 512;
constexpr std::uint64_t kChunk = 32ULL << 20;

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

std::optional<Address> StreamOrderedPool::allocate(Bytes size, StreamId /*stream*/) {
  const std::uint64_t need = up(static_cast<std::uint64_t>(size.count()), kStep);
  std::uint64_t start{};
  if (const auto hole = find_hole(need); hole != holes_.end()) {
    start = hole->first;
    const Hole was = hole->second;
    holes_.erase(hole);
    if (was.size > need) {
      holes_.emplace(start + need, Hole{was.size - need, was.pending});
    }
  } else {
    if (end_ - unused_ < need && !grow(need)) {
      return std::nullopt;
    }
    start = unused_;
    unused_ += need;
  }
  live_.emplace(start, need);
  return Address{start};
}

StreamOrderedPool::Holes::iterator StreamOrderedPool::find_hole(std::uint64_t need) {
  // Pending before completed, then the smallest; the map's order settles ties by address.
  auto best = holes_.end();
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    if (hole->second.size < need) {
      continue;
    }
    const bool better = best == holes_.end() || (hole->second.pending != best->second.pending
                                                     ? hole->second.pending
                                                     : hole->second.size < best->second.size);
    if (better) {
      best = hole;
    }
  }
  return best;
}

bool StreamOrderedPool::grow(std::uint64_t need) {
  if (!holes_.empty()) {
    const auto last = std::prev(holes_.end());
    if (last->first + last->second.size == unused_) {
      unused_ = last->first;
      holes_.erase(last);
    }
  }
  if (end_ - unused_ >= need) {
    return true;
  }
  const std::uint64_t wanted = up(need - (end_ - unused_), kChunk) / kChunk;
  const std::vector<std::uint64_t> idle = free_chunks();
  const std::uint64_t moved = idle.size() < wanted ? idle.size() : wanted;
  const Bytes taken{static_cast<std::int64_t>((wanted - moved) * kChunk)};
  if (taken > Bytes{} && !device_.take(taken)) {
    return false;
  }
  for (std::uint64_t i = 0; i < moved; ++i) {
    cut_chunk(idle[i]);
  }
  reserved_ += taken;
  end_ += wanted * kChunk;
  return true;
}

std::vector<std::uint64_t> StreamOrderedPool::free_chunks() const {
  std::vector<std::uint64_t> chunks;
  for (const auto& [start, hole] : holes_) {
    for (std::uint64_t chunk = up(start, kChunk);
         !hole.pending && chunk + kChunk <= start + hole.size; chunk += kChunk) {
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

void StreamOrderedPool::cut_chunk(std::uint64_t start) {
  const auto hole = std::prev(holes_.upper_bound(start));
  const auto [from, was] = *hole;
  holes_.erase(hole);
  if (from < start) {
    holes_.emplace(from, Hole{start - from, was.pending});
  }
  const std::uint64_t end = from + was.size;
  if (start + kChunk < end) {
    holes_.emplace(start + kChunk, Hole{end - start - kChunk, was.pending});
  }
}

void StreamOrderedPool::free(Address address, StreamId /*stream*/) {
  const auto live = live_.find(address.value());
  check(live != live_.end(), "pool_free of an address that was not given");
  const auto [start, size] = *live;
  live_.erase(live);
  add_hole(start, size, true);
}

void StreamOrderedPool::add_hole(std::uint64_t start, std::uint64_t size, bool pending) {
  const auto after = holes_.lower_bound(start);
  if (after != holes_.end() && after->first == start + size) {
    size += after->second.size;
    pending = pending || after->second.pending;
    holes_.erase(after);
  }
  const auto next = holes_.lower_bound(start);
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.size == start) {
      start = before->first;
      size += before->second.size;
      pending = pending || before->second.pending;
      holes_.erase(before);
    }
  }
  if (start + size == unused_ && !pending) {
    unused_ = start;
    return;
  }
  holes_.emplace(start, Hole{size, pending});
}

void StreamOrderedPool::trim(Bytes keep) {
  const Holes holes = std::exchange(holes_, Holes{});
  for (const auto& [start, hole] : holes) {
    add_hole(start, hole.size, false);
  }
  const auto give = [&] {
    device_.give(Bytes{static_cast<std::int64_t>(kChunk)});
    reserved_ -= Bytes{static_cast<std::int64_t>(kChunk)};
  };
  while (reserved_ > keep && end_ - kChunk >= unused_ && end_ > kBase) {
    end_ -= kChunk;
    give();
  }
  const std::vector<std::uint64_t> idle = free_chunks();
  for (auto chunk = idle.rbegin(); chunk != idle.rend() && reserved_ > keep; ++chunk) {
    cut_chunk(*chunk);
    give();
  }
}

}  // namespace peakcast
