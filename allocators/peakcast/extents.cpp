#include "allocators/peakcast/extents.hpp"

#include <bit>

namespace peakcast::near_floor {

Extents::Extents(std::uint64_t begin, std::uint64_t page)
    : begin_{begin},
      page_shift_{static_cast<unsigned>(std::countr_zero(page))},
      top_{begin},
      extents_(1) {}

void Extents::note_begin(std::uint32_t id) {
  const std::size_t page = page_of(extents_[id].home);
  if (page >= first_of_page_.size()) [[unlikely]] {
    first_of_page_.resize(page + 64, kNone);
    begun_pages_.resize(first_of_page_.size() / 64 + 1);
  }
  std::uint32_t& first = first_of_page_[page];
  if (first == kNone || extents_[first].home > extents_[id].home) {
    first = id;
    begun_pages_[page / 64] |= std::uint64_t{1} << (page % 64);
  }
}

void Extents::forget_begin(std::uint32_t id) {
  const std::size_t page = page_of(extents_[id].home);
  std::uint32_t& first = first_of_page_[page];
  if (first != id) {
    return;
  }
  const std::uint32_t next = extents_[id].next;
  if (next != kNone && page_of(extents_[next].home) == page) {
    first = next;
  } else {
    first = kNone;
    begun_pages_[page / 64] &= ~(std::uint64_t{1} << (page % 64));
  }
}

std::uint32_t Extents::link_after(std::uint32_t before, std::uint64_t home, std::uint64_t size) {
  std::uint32_t id = unused_;
  if (id == kNone) [[unlikely]] {
    id = static_cast<std::uint32_t>(extents_.size());
    extents_.emplace_back();
  } else {
    unused_ = extents_[id].next;
  }
  Extent& extent = extents_[id];
  extent = Extent{.home = home, .size = size};
  extent.previous = before;
  extent.next = extents_[before].next;
  extents_[extent.next].previous = id;
  extents_[before].next = id;
  note_begin(id);
  return id;
}

void Extents::unlink(std::uint32_t id) {
  forget_begin(id);
  Extent& extent = extents_[id];
  extents_[extent.previous].next = extent.next;
  extents_[extent.next].previous = extent.previous;
  extent.state = State::none;
  extent.next = unused_;
  unused_ = id;
}

std::uint32_t Extents::covering(std::uint64_t home) const {
  if (home < begin_ || home >= top_) {
    return kNone;
  }
  const std::size_t page = page_of(home);
  if (page < first_of_page_.size()) {
    std::uint32_t at = first_of_page_[page];
    if (at != kNone) {
      if (extents_[at].home > home) {
        return extents_[at].previous;
      }
      while (extents_[at].end() <= home) {
        at = extents_[at].next;
      }
      return at;
    }
    // The one before the next that begins anywhere.
    std::size_t word = page / 64;
    std::uint64_t bits = begun_pages_[word] & (~std::uint64_t{0} << (page % 64));
    while (bits == 0 && ++word < begun_pages_.size()) {
      bits = begun_pages_[word];
    }
    if (bits != 0) {
      const std::size_t next = word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      return extents_[first_of_page_[next]].previous;
    }
  }
  return last();
}

std::uint32_t Extents::take(std::uint32_t id, std::uint64_t home, std::uint64_t size) {
  unindex(id);
  const std::uint64_t end = extents_[id].end();
  const Stamp stamp = extents_[id].stamp;
  if (home > extents_[id].home) {
    extents_[id].size = home - extents_[id].home;
    put_free(id);
    id = link_after(id, home, end - home);
    extents_[id].stamp = stamp;
  }
  if (home + size < end) {
    extents_[id].size = size;
    const std::uint32_t rest = link_after(id, home + size, end - home - size);
    extents_[rest].stamp = stamp;
    put_free(rest);
  }
  Extent& extent = extents_[id];
  extent.state = State::used;
  extent.piece = kNone;
  extent.has_uses = false;
  return id;
}

std::uint32_t Extents::add(std::uint64_t home, std::uint64_t size) {
  std::uint32_t id = kNone;
  if (home == top_) {
    id = link_after(last(), home, size);
    top_ = home + size;
  } else {
    const std::uint32_t gap = covering(home);
    check(is_gap(gap) && extents_[gap].home == home && extents_[gap].size >= size,
          "new memory where there is no gap");
    if (extents_[gap].size > size) {
      extents_[gap].size -= size;
      forget_begin(gap);
      extents_[gap].home += size;
      note_begin(gap);
      id = link_after(extents_[gap].previous, home, size);
    } else {
      id = gap;
      --gaps_;
    }
  }
  extents_[id].state = State::used;
  return give(id, 0, [](Stamp a, Stamp b) { return a > b ? a : b; });
}

void Extents::remove(std::uint64_t home, std::uint64_t size) {
  const std::uint32_t id = take(free_at(home, size), home, size);
  extents_[id].state = State::gap;
  ++gaps_;
  join_gaps(id);
}

void Extents::join_gaps(std::uint32_t id) {
  const std::uint32_t after = extents_[id].next;
  if (after != kNone && is_gap(after)) {
    extents_[id].size += extents_[after].size;
    unlink(after);
    --gaps_;
  }
  const std::uint32_t before = extents_[id].previous;
  if (before != kNone && is_gap(before)) {
    extents_[before].size += extents_[id].size;
    unlink(id);
    --gaps_;
    id = before;
  }
  if (extents_[id].next == kNone) {
    top_ = extents_[id].home;
    unlink(id);
    --gaps_;
  }
}

std::uint64_t Extents::place_for(std::uint64_t size) const {
  std::uint64_t best = 0;
  std::uint64_t place = top_;
  if (gaps_ > 0) {
    for (std::uint32_t id = first(); id != kNone; id = extents_[id].next) {
      if (is_gap(id) && extents_[id].size >= size && (best == 0 || extents_[id].size < best)) {
        best = extents_[id].size;
        place = extents_[id].home;
      }
    }
  }
  return place;
}

}  // namespace peakcast::near_floor
