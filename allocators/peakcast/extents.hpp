#pragma once

#include <cstdint>
#include <vector>

#include "allocators/free_index.hpp"
#include "sim/core/check.hpp"

namespace peakcast::near_floor {

/// What may use memory that became free, and when (stream_order.hpp).
using Stamp = std::uint64_t;

/// The memory that the policy holds, as one line of extents in the order of their home addresses:
///
///     home  [ used | free | used |   free   ]   gap   [ used |  free  ]
///
/// A gap is address space whose memory went back to the driver. Free neighbours are one extent.
/// A block is one used extent or, stitched, several that name one another by `piece`.
/// Addresses and sizes are multiples of 512 bytes.
class Extents {
 public:
  static constexpr std::uint32_t kNone = 0;  // an extent that is never free: needs no test
  static constexpr std::uint64_t kUnit = 512;

  enum class State : std::uint8_t { none, used, pending, free, gap };
  /// One cache line.
  struct alignas(64) Extent {
    std::uint64_t home{};
    std::uint64_t size{};
    Stamp stamp{};              ///< free: who used it last
    std::uint64_t address{};    ///< of a block's first piece: what was handed out
    std::uint64_t requested{};  ///< the same: bytes
    std::uint32_t previous{};
    std::uint32_t next{};   ///< of an unused number: the next unused one
    std::uint32_t slot{};   ///< free: in the index
    std::uint32_t piece{};  ///< the block's next piece, or kNone
    std::uint32_t view{};   ///< of a block's first piece: the view that it lies in, or kNoView
    std::uint16_t stream{};
    State state{};
    bool has_uses{};  ///< of a block's first piece: streams were recorded
    [[nodiscard]] std::uint64_t end() const { return home + size; }
  };
  static_assert(sizeof(Extent) == 64);

  /// Homes lie from `begin` on. `page` is a power of two; no two extents of one page are
  /// needed for anything but speed: covering() walks the extents that begin in one page.
  Extents(std::uint64_t begin, std::uint64_t page);

  [[nodiscard]] Extent& operator[](std::uint32_t id) { return extents_[id]; }
  [[nodiscard]] const Extent& operator[](std::uint32_t id) const { return extents_[id]; }
  [[nodiscard]] std::uint32_t first() const { return extents_[kNone].next; }
  [[nodiscard]] std::uint32_t last() const { return extents_[kNone].previous; }

  /// The smallest free extent of at least `size`, the lowest of equals, or kNone.
  [[nodiscard]] std::uint32_t fit(std::uint64_t size) {
    const std::uint32_t found = index_.find(static_cast<std::uint32_t>(size / kUnit));
    return found == FreeIndex::kNone ? kNone : found;
  }
  /// The extent that holds the byte at `home`, or kNone. Walks the extents that begin in its page.
  [[nodiscard]] std::uint32_t covering(std::uint64_t home) const;
  /// The free extent that holds [home, home + size), or kNone. `hint`: where it was once.
  [[nodiscard]] std::uint32_t free_at(std::uint64_t home, std::uint64_t size,
                                      std::uint32_t hint = kNone) const {
    const Extent& guess = extents_[hint];
    if (guess.state == State::free && guess.home <= home && home + size <= guess.end()) [[likely]] {
      return hint;
    }
    const std::uint32_t found = covering(home);
    return extents_[found].state == State::free && home + size <= extents_[found].end() ? found
                                                                                        : kNone;
  }
  /// Calls `visit` with each free extent of at least `size`, in an order of no meaning.
  template <class Visit>
  void for_each_free(std::uint64_t size, Visit visit) const {
    index_.for_each(static_cast<std::uint32_t>(size / kUnit), visit);
  }
  /// Makes [home, home + size) of the free `id` used; what is left of it stays free.
  std::uint32_t take(std::uint32_t id, std::uint64_t home, std::uint64_t size);
  /// A used or pending extent becomes free, one with its free neighbours.
  /// `merge` says the stamp of two that become one.
  template <class Merge>
  std::uint32_t give(std::uint32_t id, Stamp stamp, Merge merge) {
    Extent& extent = extents_[id];
    extent.stamp = stamp;
    const std::uint32_t before = extent.previous;
    const std::uint32_t after = extent.next;
    if (extents_[after].state == State::free) {
      unindex(after);
      extent.size += extents_[after].size;
      extent.stamp = merge(extent.stamp, extents_[after].stamp);
      unlink(after);
    }
    if (extents_[before].state == State::free) {
      unindex(before);
      extents_[before].size += extent.size;
      extents_[before].stamp = merge(extents_[before].stamp, extent.stamp);
      unlink(id);
      id = before;
    }
    put_free(id);
    return id;
  }
  /// New memory at [home, home + size), which is a gap's or lies behind everything: free.
  std::uint32_t add(std::uint64_t home, std::uint64_t size);
  /// [home, home + size), which is free, is a gap from now on.
  void remove(std::uint64_t home, std::uint64_t size);
  /// The end of the last extent that is no gap.
  [[nodiscard]] std::uint64_t top() const { return top_; }
  /// The smallest gap of at least `size` that lies below the top, or the top.
  [[nodiscard]] std::uint64_t place_for(std::uint64_t size) const;

  [[nodiscard]] bool is_gap(std::uint32_t id) const { return extents_[id].state == State::gap; }

 private:
  [[nodiscard]] std::uint32_t link_after(std::uint32_t before, std::uint64_t home,
                                         std::uint64_t size);
  void unlink(std::uint32_t id);
  void put_free(std::uint32_t id) {
    Extent& extent = extents_[id];
    extent.state = State::free;
    extent.slot = index_.insert(static_cast<std::uint32_t>(extent.size / kUnit), extent.home, id);
  }
  void unindex(std::uint32_t id) {
    const FreeIndex::Taken taken = index_.erase(extents_[id].slot);
    extents_[taken.moved].slot = taken.slot;
  }
  [[nodiscard]] std::size_t page_of(std::uint64_t home) const {
    return static_cast<std::size_t>((home - begin_) >> page_shift_);
  }
  void note_begin(std::uint32_t id);
  void forget_begin(std::uint32_t id);
  /// Gaps that touch become one.
  void join_gaps(std::uint32_t id);

  std::uint64_t begin_;
  unsigned page_shift_;
  std::uint64_t top_;
  std::vector<Extent> extents_;
  std::uint32_t unused_{};  ///< the first of a list
  FreeIndex index_{};
  std::vector<std::uint32_t>
      first_of_page_{};                       ///< the first extent that begins in a page, or kNone
  std::vector<std::uint64_t> begun_pages_{};  ///< a bit for each page in which one begins
  std::uint32_t gaps_{};
};

}  // namespace peakcast::near_floor
