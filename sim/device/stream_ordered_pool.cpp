#include "sim/device/stream_ordered_pool.hpp"

#include <algorithm>
#include <iterator>

#include "sim/core/check.hpp"
#include "sim/device/simulated_device.hpp"

namespace peakcast {
namespace {

constexpr std::uint64_t kStep = 512;
constexpr std::uint64_t kChunk = 32ULL << 20;
constexpr Bytes kChunkBytes{static_cast<std::int64_t>(kChunk)};

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

StreamOrderedPool::~StreamOrderedPool() {
  if (streams_ != nullptr) {
    for (const auto& [start, range] : free_) {
      if (range.pending) {
        streams_->forget(range.event);
      }
    }
  }
}

// -- free ranges ----------------------------------------------------------------------------------

StreamOrderedPool::BySize& StreamOrderedPool::index_of(const Range& range) {
  return range.pending ? pending_[range.stream] : range.backed ? backed_ : bare_;
}

void StreamOrderedPool::insert(std::uint64_t start, Range range) {
  range.born = born_++;
  index_again(start, range);
}

void StreamOrderedPool::index_again(std::uint64_t start, Range range) {
  range.backed = range.pending || is_backed(start, range.size);
  index_of(range).insert({range.size, range.born, start});
  free_.emplace(start, range);
}

StreamOrderedPool::Range StreamOrderedPool::extract(Ranges::iterator at) {
  const auto [start, range] = *at;
  index_of(range).erase({range.size, range.born, start});
  free_.erase(at);
  return range;
}

void StreamOrderedPool::give_back(std::uint64_t start, Range range) {
  const auto joins = [&](const Range& other) {
    return other.pending == range.pending && (!range.pending || other.stream == range.stream);
  };
  const auto absorb = [&](Ranges::iterator neighbour) {
    const Range other = extract(neighbour);
    range.size += other.size;
    if (other.pending && streams_ != nullptr) {
      streams_->forget(other.event);  // the later free's event stands for both
    }
  };
  const auto after = free_.find(start + range.size);
  if (after != free_.end() && joins(after->second)) {
    absorb(after);
  }
  const auto next = free_.lower_bound(start);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.size == start && joins(before->second)) {
      start = before->first;
      absorb(before);
    }
  }
  if (!range.pending && start + range.size == unused_) {
    unused_ = start;
    return;
  }
  insert(start, range);
}

void StreamOrderedPool::free(Address address, StreamId stream) {
  const auto live = live_.find(address.value());
  check(live != live_.end(), "pool_free of an address that was not given");
  const auto [start, size] = *live;
  live_.erase(live);
  Range range{.size = size, .freed = freed_++, .stream = stream, .pending = true};
  if (streams_ != nullptr) {
    range.event = streams_->record(stream);
  }
  give_back(start, range);
}

bool StreamOrderedPool::passed(const Range& range) const {
  return streams_ == nullptr || streams_->completed(range.event);
}

void StreamOrderedPool::poll() {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> done;  // latest free, start
  for (auto& [stream, fits] : pending_) {
    done.clear();
    for (const Fit& fit : fits) {
      const Range& range = free_.at(fit.start);
      if (passed(range)) {
        done.emplace_back(range.freed, fit.start);
      }
    }
    std::sort(done.rbegin(), done.rend());
    for (const auto& [freed, start] : done) {
      Range range = extract(free_.find(start));
      if (streams_ != nullptr) {
        streams_->forget(range.event);
      }
      range.pending = false;
      give_back(start, range);
    }
  }
}

// -- the search -----------------------------------------------------------------------------------

std::optional<StreamOrderedPool::Fit> StreamOrderedPool::smallest(const BySize& fits,
                                                                  std::uint64_t need) {
  const auto fit = fits.lower_bound({need, 0, 0});
  return fit == fits.end() ? std::nullopt : std::optional{*fit};
}

std::optional<StreamOrderedPool::Fit> StreamOrderedPool::find_elsewhere(std::uint64_t need,
                                                                        StreamId stream,
                                                                        bool only_passed) const {
  std::optional<Fit> best;
  std::optional<Fit> earliest;
  const auto usable = [&](const Fit& fit) { return !only_passed || passed(free_.at(fit.start)); };
  for (const auto& [other, fits] : pending_) {
    if (other == stream) {
      continue;
    }
    for (auto fit = fits.lower_bound({need, 0, 0}); fit != fits.end(); ++fit) {
      if (!best || *fit < *best) {
        best = *fit;
      }
      if (usable(*fit) &&
          (!earliest || free_.at(fit->start).freed < free_.at(earliest->start).freed)) {
        earliest = *fit;
      }
    }
  }
  return best && usable(*best) ? best : earliest;
}

std::optional<StreamOrderedPool::Fit> StreamOrderedPool::find(std::uint64_t need, StreamId stream) {
  if (const auto own = smallest(pending_[stream], need)) {
    return own;
  }
  if (const auto backed = smallest(backed_, need)) {
    return backed;
  }
  if (const auto elsewhere = find_elsewhere(need, stream, true)) {
    return elsewhere;
  }
  poll();
  const auto backed = smallest(backed_, need);
  const auto bare = smallest(bare_, need);
  return backed && (!bare || *backed < *bare) ? backed : bare;
}

std::optional<Address> StreamOrderedPool::allocate(Bytes size, StreamId stream) {
  const std::uint64_t need = up(static_cast<std::uint64_t>(size.count()), kStep);
  const std::optional<Fit> fit = find(need, stream);
  std::uint64_t start = fit ? fit->start : unused_;
  if (!place(start, need)) {
    const std::optional<Fit> elsewhere = find_elsewhere(need, stream, false);
    if (!elsewhere) {
      return std::nullopt;
    }
    start = elsewhere->start;
    check(place(start, need), "pending ranges are backed");
  }
  live_.emplace(start, need);
  return Address{start};
}

bool StreamOrderedPool::place(std::uint64_t start, std::uint64_t need) {
  const auto at = free_.find(start);
  if (at == free_.end()) {
    unused_ = start + need;
    if (!back(start, need)) {
      unused_ = start;
      return false;
    }
    return true;
  }
  Range range = extract(at);
  const std::uint64_t left = range.size - need;
  if (left > 0) {
    Range rest = range;
    rest.size = left;
    insert(start + need, rest);
  } else if (range.pending && streams_ != nullptr) {
    streams_->forget(range.event);
  }
  const bool backed = back(start, need);
  if (left > 0) {  // what was taken for `need` may have completed the rest's first chunk
    const auto at_rest = free_.find(start + need);
    Range rest = extract(at_rest);
    if (backed) {
      index_again(start + need, rest);
    }
  }
  if (!backed) {
    insert(start, range);
  }
  return backed;
}

// -- chunks ---------------------------------------------------------------------------------------

bool StreamOrderedPool::has_chunk(std::uint64_t chunk) const {
  const std::uint64_t index = (chunk - kBase) / kChunk;
  return index < chunks_.size() && chunks_[index];
}

bool StreamOrderedPool::is_backed(std::uint64_t start, std::uint64_t size) const {
  for (std::uint64_t chunk = start / kChunk * kChunk; chunk < start + size; chunk += kChunk) {
    if (!has_chunk(chunk)) {
      return false;
    }
  }
  return true;
}

bool StreamOrderedPool::back(std::uint64_t start, std::uint64_t need) {
  std::uint64_t below = kBase + chunks_.size() * kChunk;
  for (std::uint64_t chunk = start / kChunk * kChunk; chunk < start + need; chunk += kChunk) {
    if (has_chunk(chunk)) {
      continue;
    }
    if (const auto idle = idle_chunk(below)) {
      below = *idle;
      take_chunk_away(*idle);
    } else if (device_.take(kChunkBytes)) {
      reserved_ += kChunkBytes;
      below = kBase;  // there was none, and none comes
    } else {
      return false;
    }
    const std::uint64_t index = (chunk - kBase) / kChunk;
    chunks_.resize(std::max<std::size_t>(chunks_.size(), index + 1));
    chunks_[index] = true;
  }
  return true;
}

std::optional<std::uint64_t> StreamOrderedPool::idle_chunk(std::uint64_t below) const {
  const auto highest_in = [&](std::uint64_t start,
                              std::uint64_t end) -> std::optional<std::uint64_t> {
    const std::uint64_t first = up(start, kChunk);
    for (std::uint64_t chunk = std::min(below, end / kChunk * kChunk); chunk > first;) {
      chunk -= kChunk;
      if (has_chunk(chunk)) {
        return chunk;
      }
    }
    return std::nullopt;
  };
  if (const auto chunk = highest_in(unused_, kBase + chunks_.size() * kChunk)) {
    return chunk;
  }
  for (auto at = free_.lower_bound(below); at != free_.begin();) {
    --at;
    const auto& [start, range] = *at;
    if (!range.pending) {
      if (const auto chunk = highest_in(start, start + range.size)) {
        return chunk;
      }
    }
  }
  return std::nullopt;
}

void StreamOrderedPool::take_chunk_away(std::uint64_t chunk) {
  chunks_[(chunk - kBase) / kChunk] = false;
  if (chunk >= unused_) {
    return;
  }
  auto& [start, range] = *std::prev(free_.upper_bound(chunk));
  if (range.backed) {
    backed_.erase({range.size, range.born, start});
    range.backed = false;
    bare_.insert({range.size, range.born, start});
  }
}

void StreamOrderedPool::trim(Bytes keep) {
  std::uint64_t below = kBase + chunks_.size() * kChunk;
  while (reserved_ > keep) {
    const auto idle = idle_chunk(below);
    if (!idle) {
      break;
    }
    below = *idle;
    take_chunk_away(*idle);
    device_.give(kChunkBytes);
    reserved_ -= kChunkBytes;
  }
}

}  // namespace peakcast
