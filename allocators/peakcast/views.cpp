#include "allocators/peakcast/views.hpp"

#include <algorithm>
#include <iterator>

#include "sim/core/check.hpp"

namespace peakcast::near_floor {
namespace {

/// How many of the views used last find() looks through, and how many handles in all: a bound on
/// its time, a microsecond or two beside the tens of microseconds that a new mapping costs.
constexpr int kViewsLookedAt = 16;
constexpr std::size_t kHandlesLookedAt = 1024;

Bytes bytes(std::uint64_t count) { return Bytes{static_cast<std::int64_t>(count)}; }

std::uint64_t key_of(std::span<const std::uint32_t> sequence) {
  std::uint64_t key = 0x9e3779b97f4a7c15ULL;
  for (const std::uint32_t handle : sequence) {
    key = (key ^ handle) * 0xff51afd7ed558ccdULL;
    key ^= key >> 29U;
  }
  return key;
}

}  // namespace

std::uint32_t Views::over(std::span<const std::uint32_t> sequence) {
  const std::uint64_t key = key_of(sequence);
  const auto [first, last] = by_key_.equal_range(key);
  for (auto known = first; known != last; ++known) {
    const View& view = views_[known->second];
    if (!view.broken && std::ranges::equal(view.sequence, sequence)) {
      return known->second;
    }
  }
  std::uint64_t size = 0;
  std::vector<PhysicalId> physical;
  std::vector<std::uint64_t> begins;
  for (const std::uint32_t handle : sequence) {
    begins.push_back(size);
    physical.push_back(handles_[handle].physical);
    size += handles_[handle].size;
  }
  const std::optional<std::uint64_t> address = take_addresses(size);
  if (!address) {
    return kNone;
  }
  device_.map_run(Address{*address}, physical);
  std::uint32_t id = static_cast<std::uint32_t>(views_.size());
  if (unused_.empty()) {
    views_.emplace_back();
  } else {
    id = unused_.back();
    unused_.pop_back();
  }
  views_[id] = View{.address = *address,
                    .size = size,
                    .sequence = {sequence.begin(), sequence.end()},
                    .begins = std::move(begins),
                    .key = key};
  for (const std::uint32_t handle : sequence) {
    handles_[handle].views.push_back(id);
  }
  mappings_ += std::ssize(sequence);
  by_key_.emplace(key, id);
  put_newest(id);
  return id;
}

void Views::ranges(std::uint32_t view, std::uint64_t offset, std::uint64_t size,
                   std::vector<Range>& out) const {
  out.clear();
  const View& v = views_[view];
  auto part = static_cast<std::size_t>(
      std::prev(std::upper_bound(v.begins.begin(), v.begins.end(), offset)) - v.begins.begin());
  while (size > 0) {
    const Handles::Handle& handle = handles_[v.sequence[part]];
    const std::uint64_t skipped = offset - v.begins[part];
    const std::uint64_t taken = std::min(size, handle.size - skipped);
    const std::uint64_t home = handle.home + skipped;
    if (!out.empty() && out.back().home + out.back().size == home) {
      out.back().size += taken;
    } else {
      out.push_back({home, taken});
    }
    size -= taken;
    offset += taken;
    ++part;
  }
}

std::optional<std::pair<std::uint32_t, std::uint64_t>> Views::find(std::uint64_t size,
                                                                   const Extents& extents) const {
  std::optional<std::pair<std::uint32_t, std::uint64_t>> best;
  std::uint64_t best_room = 0;
  std::size_t looked_at = 0;
  int views = 0;
  for (std::uint32_t id = newest_; id != kNone; id = views_[id].older) {
    const View& view = views_[id];
    if (view.size < size) {
      continue;
    }
    if (++views > kViewsLookedAt || looked_at > kHandlesLookedAt) {
      break;
    }
    looked_at += view.sequence.size();
    std::uint64_t begin = 0;  // of the free stretch that ends where we are
    std::uint64_t end = 0;
    const auto judge = [&] {
      const std::uint64_t room = end - begin;
      if (room >= size && (!best || room < best_room)) {
        best = {id, begin};
        best_room = room;
      }
    };
    for (std::size_t i = 0; i < view.sequence.size(); ++i) {
      const Handles::Handle& handle = handles_[view.sequence[i]];
      // What is free at the handle's end counts for the next stretch, at its begin for this one.
      const std::uint32_t head = extents.covering(handle.home);
      const bool head_free = extents[head].state == Extents::State::free;
      if (head_free && extents[head].end() >= handle.end()) {
        end += handle.size;
        continue;
      }
      if (head_free) {
        end += extents[head].end() - handle.home;
      }
      judge();
      const std::uint32_t tail = extents.covering(handle.end() - 1);
      const std::uint64_t free_tail =
          extents[tail].state == Extents::State::free ? handle.end() - extents[tail].home : 0;
      end = view.begins[i] + handle.size;
      begin = end - free_tail;
    }
    judge();
  }
  return best;
}

void Views::put_newest(std::uint32_t view) {
  views_[view].older = newest_;
  views_[view].newer = kNone;
  (newest_ == kNone ? oldest_ : views_[newest_].newer) = view;
  newest_ = view;
}

void Views::take_out(std::uint32_t view) {
  const View& v = views_[view];
  (v.older == kNone ? oldest_ : views_[v.older].newer) = v.newer;
  (v.newer == kNone ? newest_ : views_[v.newer].older) = v.older;
}

void Views::enter(std::uint32_t view) {
  ++views_[view].blocks;
  if (view != newest_) {
    take_out(view);
    put_newest(view);
  }
}

void Views::leave(std::uint32_t view) {
  if (--views_[view].blocks == 0 && views_[view].broken) {
    unmap(view);
  }
}

void Views::retire(std::uint32_t view) {
  take_out(view);
  const auto [first, last] = by_key_.equal_range(views_[view].key);
  by_key_.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second == view; }));
}

/// What is mapped of `view` goes, and its address space may be used again.
void Views::unmap(std::uint32_t view) {
  View& v = views_[view];
  check(v.blocks == 0, "a view that holds a block goes");
  if (!v.broken) {
    retire(view);
  }
  // One call for each run of handles that are still there.
  for (std::size_t i = 0; i < v.sequence.size();) {
    std::uint64_t size = 0;
    std::size_t j = i;
    for (; j < v.sequence.size() && v.sequence[j] != Handles::kNone; ++j) {
      Handles::Handle& handle = handles_[v.sequence[j]];
      handle.views.erase(std::find(handle.views.begin(), handle.views.end(), view));
      size += handle.size;
      --mappings_;
    }
    if (j > i) {
      device_.unmap(Address{v.address + v.begins[i]}, bytes(size));
    }
    i = std::max(j, i + 1);
  }
  give_addresses(v.address, v.size);
  v = View{};
  unused_.push_back(view);
}

void Views::drop(std::uint32_t handle) {
  while (!handles_[handle].views.empty()) {
    const std::uint32_t id = handles_[handle].views.back();
    View& view = views_[id];
    if (view.blocks == 0) {
      unmap(id);
      continue;
    }
    if (!view.broken) {
      retire(id);
      view.broken = true;
    }
    const auto part = static_cast<std::size_t>(
        std::find(view.sequence.begin(), view.sequence.end(), handle) - view.sequence.begin());
    device_.unmap(Address{view.address + view.begins[part]}, bytes(handles_[handle].size));
    view.sequence[part] = Handles::kNone;
    handles_[handle].views.pop_back();
    --mappings_;
  }
}

void Views::shrink(std::int64_t most) {
  for (std::uint32_t next = oldest_; next != kNone && mappings_ > most;) {
    const std::uint32_t view = next;
    next = views_[view].newer;
    if (views_[view].blocks == 0) {
      unmap(view);
    }
  }
}

std::optional<std::uint64_t> Views::take_addresses(std::uint64_t size) {
  // First fit: all that counts is that address space does not run out.
  auto range = addresses_.begin();
  while (range != addresses_.end() && range->second < size) {
    ++range;
  }
  if (range == addresses_.end()) {
    const auto total = static_cast<std::uint64_t>(device_.spec().total.count());
    const std::uint64_t want =
        std::max(size, total) / handles_.granularity() * handles_.granularity() * 4;
    const std::optional<Address> reserved = device_.reserve(bytes(want));
    if (!reserved) {
      return std::nullopt;
    }
    // Its first page stays unused, so that what lies in two reservations never becomes one.
    const std::uint64_t page = handles_.granularity();
    range = addresses_.emplace(reserved->value() + page, want - page).first;
  }
  const std::uint64_t address = range->first;
  const std::uint64_t left = range->second - size;
  addresses_.erase(range);
  if (left > 0) {
    addresses_.emplace(address + size, left);
  }
  return address;
}

void Views::give_addresses(std::uint64_t address, std::uint64_t size) {
  addresses_.emplace(address, size);
  auto here = addresses_.find(address);
  const auto after = std::next(here);
  if (after != addresses_.end() && here->first + here->second == after->first) {
    here->second += after->second;
    addresses_.erase(after);
  }
  if (here != addresses_.begin()) {
    const auto before = std::prev(here);
    if (before->first + before->second == here->first) {
      before->second += here->second;
      addresses_.erase(here);
    }
  }
}

}  // namespace peakcast::near_floor
