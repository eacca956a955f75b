#include "allocators/peakcast/extents.hpp"

#include <bit>

namespace peakcast::near_floor {

void Extents::note_begin(std::uint32_t id) {
  const std::size_t page = page_of(extents_[id].home);
  if (page_of(extents_[extents_[id].previous].home) == page) {
    return;  // not the first
  }
  if (page >= first_of_page_.size()) [[unlikely]] {
    first_of_page_.resize(page + page / 2 + 64, kNone);
    begun_pages_.resize(first_of_page_.size() / 64 + 1);
    begun_words_.resize(begun_pages_.size() / 64 + 1);
  }
  std::uint32_t& first = first_of_page_[page];
  if (first == kNone) {
    begun_pages_[page / 64] |= std::uint64_t{1} << (page % 64);
    begun_words_[page / 4096] |= std::uint64_t{1} << (page / 64 % 64);
  }
  first = id;
}

void Extents::forget_begin(std::uint32_t id) {
  const std::size_t page = page_of(extents_[id].home);
  if (page_of(extents_[extents_[id].previous].home) == page) {
    return;  // not the first
  }
  std::uint32_t& first = first_of_page_[page];
  const std::uint32_t next = extents_[id].next;
  if (next != kNone && page_of(extents_[next].home) == page) {
    first = next;
    return;
  }
  first = kNone;
  std::uint64_t& word = begun_pages_[page / 64];
  word &= ~(std::uint64_t{1} << (page % 64));
  begun_words_[page / 4096] &= ~(std::uint64_t{word == 0} << (page / 64 % 64));
}

std::size_t Extents::begun_page(std::size_t page) const {
  const auto first_bit = [](std::uint64_t bits) {
    return static_cast<std::size_t>(std::countr_zero(bits));
  };
  const std::uint64_t near = begun_pages_[page / 64] & (~std::uint64_t{0} << (page % 64));
  if (near != 0) {
    return page / 64 * 64 + first_bit(near);
  }
  const std::size_t next = page / 64 + 1;
  std::size_t group = next / 64;
  if (group >= begun_words_.size()) {
    return first_of_page_.size();
  }
  std::uint64_t words = begun_words_[group] & (~std::uint64_t{0} << (next % 64));
  while (words == 0) {
    if (++group == begun_words_.size()) {
      return first_of_page_.size();
    }
    words = begun_words_[group];
  }
  const std::size_t word = group * 64 + first_bit(words);
  return word * 64 + first_bit(begun_pages_[word]);
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
  const bool queued = extent.queued;  // of the number, not of what it stood for
  extent = Extent{.home = home, .size = size};
  extent.queued = queued;
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
    const std::size_t next = begun_page(page);
    if (next < first_of_page_.size()) {
      return extents_[first_of_page_[next]].previous;
    }
  }
  return last();
}

void Extents::join_next(std::uint32_t id) {
  const std::uint32_t after = extents_[id].next;
  unindex(after);
  extents_[id].size += extents_[after].size;
  extents_[id].stamp = merge_(extents_[id].stamp, extents_[after].stamp);
  unlink(after);
}

void Extents::settle_all() {
  for (std::uint32_t id : loose_) {
    extents_[id].queued = false;
    if (extents_[id].state != State::free || extents_[id].slot != kLoose) {
      continue;  // taken again, or joined with another
    }
    while (extents_[extents_[id].next].state == State::free) {
      join_next(id);
    }
    while (extents_[extents_[id].previous].state == State::free) {
      id = extents_[id].previous;
      unindex(id);
      join_next(id);
      extents_[id].slot = kLoose;
    }
    Extent& extent = extents_[id];
    extent.slot = index_.insert(static_cast<std::uint32_t>(extent.size / kUnit), extent.home, id);
  }
  loose_.clear();
}

std::uint32_t Extents::free_up_to(std::uint32_t id, std::uint64_t end) {
  if (extents_[id].end() < end && extents_[extents_[id].next].state == State::free) {
    unindex(id);
    put_loose(id);
    do {
      join_next(id);
    } while (extents_[id].end() < end && extents_[extents_[id].next].state == State::free);
  }
  return extents_[id].end() >= end ? id : kNone;
}

std::uint32_t Extents::take_part(std::uint32_t id, std::uint64_t home, std::uint64_t size) {
  unindex(id);
  const std::uint64_t end = extents_[id].end();
  const Stamp stamp = extents_[id].stamp;
  if (home > extents_[id].home) {
    extents_[id].size = home - extents_[id].home;
    put_loose(id);
    id = link_after(id, home, end - home);
    extents_[id].stamp = stamp;
  }
  if (home + size < end) {
    extents_[id].size = size;
    const std::uint32_t rest = link_after(id, home + size, end - home - size);
    extents_[rest].stamp = stamp;
    put_loose(rest);
  }
  mark_used(extents_[id]);
  return id;
}

void Extents::add(std::uint64_t home, std::uint64_t size) {
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
  give(id, 0);  // nobody has used it
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
