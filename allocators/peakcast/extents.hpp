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
/// A gap is address space whose memory went back to the driver.
/// A block is one used extent or, stitched, several that name one another by `piece`.
/// Addresses and sizes are multiples of 512 bytes.
///
/// What is let go stays loose: a free extent of its own, neither joined with its free neighbours
/// nor in the index, until somebody searches (settle()). A program that repeats itself asks for the
/// same place again before that, and then nothing has to be taken apart and put together:
///
///     let go  [ used | loose | loose | free ]   settled  [ used |        free        ]
class Extents {
 public:
  static constexpr std::uint32_t kNone = 0;  // an extent that is never free: needs no test
  static constexpr std::uint64_t kUnit = 512;
  static constexpr std::uint32_t kLoose = 0xffffffffU;  ///< Extent::slot of a loose one

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
    std::uint32_t slot{};   ///< free: in the index, or kLoose
    std::uint32_t piece{};  ///< the block's next piece, or kNone
    std::uint32_t view{};   ///< of a block's first piece: the view that it lies in, or kNoView
    std::uint16_t stream{};
    State state{};
    bool has_uses : 1 {};  ///< of a block's first piece: streams were recorded
    bool queued : 1 {};    ///< settle() will look at it
    [[nodiscard]] std::uint64_t end() const { return home + size; }
  };
  static_assert(sizeof(Extent) == 64);

  /// Says the stamp of two extents that become one.
  using Merge = Stamp (*)(Stamp, Stamp);
  /// Homes lie from `begin` on.
  Extents(std::uint64_t begin, Merge merge) : begin_{begin}, top_{begin}, merge_{merge} {}

  /// Joins what is loose with its free neighbours and puts it into the index. O(1) for each extent
  /// that was let go since.
  void settle() {
    if (!loose_.empty()) {
      settle_all();
    }
  }

  [[nodiscard]] Extent& operator[](std::uint32_t id) { return extents_[id]; }
  [[nodiscard]] const Extent& operator[](std::uint32_t id) const { return extents_[id]; }
  [[nodiscard]] std::uint32_t first() const { return extents_[kNone].next; }
  [[nodiscard]] std::uint32_t last() const { return extents_[kNone].previous; }

  /// The smallest free extent of at least `size`, the lowest of equals, or kNone.
  [[nodiscard]] std::uint32_t fit(std::uint64_t size) {
    settle();
    const std::uint32_t found = index_.find(static_cast<std::uint32_t>(size / kUnit));
    return found == FreeIndex::kNone ? kNone : found;
  }
  /// The extent that holds the byte at `home`, or kNone. Walks the extents that begin in its page.
  [[nodiscard]] std::uint32_t covering(std::uint64_t home) const;
  /// The free extent that holds [home, home + size), or kNone. `hint`: where it was once.
  [[nodiscard]] std::uint32_t free_at(std::uint64_t home, std::uint64_t size,
                                      std::uint32_t hint = kNone) {
    const Extent& guess = extents_[hint];
    if (guess.state == State::free && guess.home <= home && home < guess.end()) [[likely]] {
      return home + size <= guess.end() ? hint : free_up_to(hint, home + size);
    }
    const std::uint32_t found = covering(home);
    return extents_[found].state == State::free ? free_up_to(found, home + size) : kNone;
  }
  /// Calls `visit` with each free extent of at least `size`, in an order of no meaning.
  /// Precondition: settled.
  template <class Visit>
  void for_each_free(std::uint64_t size, Visit visit) const {
    index_.for_each(static_cast<std::uint32_t>(size / kUnit), visit);
  }
  /// Makes [home, home + size) of the free `id` used; what is left of it stays free.
  std::uint32_t take(std::uint32_t id, std::uint64_t home, std::uint64_t size) {
    Extent& extent = extents_[id];
    if (extent.home != home || extent.size != size || extent.slot != kLoose) [[unlikely]] {
      return take_part(id, home, size);
    }
    mark_used(extent);
    return id;
  }
  /// A used or pending extent becomes free.
  void give(std::uint32_t id, Stamp stamp) {
    extents_[id].stamp = stamp;
    put_loose(id);
  }
  /// New memory at [home, home + size), which is a gap's or lies behind everything: free.
  void add(std::uint64_t home, std::uint64_t size);
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
  static void mark_used(Extent& extent) {
    extent.state = State::used;
    extent.piece = kNone;
    extent.has_uses = false;
  }
  [[nodiscard]] std::uint32_t take_part(std::uint32_t id, std::uint64_t home, std::uint64_t size);
  /// The free `id`, joined with what follows as far as it must be to reach `end`, or kNone.
  [[nodiscard]] std::uint32_t free_up_to(std::uint32_t id, std::uint64_t end);
  void settle_all();
  void put_loose(std::uint32_t id) {
    Extent& extent = extents_[id];
    extent.state = State::free;
    extent.slot = kLoose;
    if (!extent.queued) {
      extent.queued = true;
      loose_.push_back(id);
    }
  }
  void unindex(std::uint32_t id) {
    if (extents_[id].slot != kLoose) {
      const FreeIndex::Taken taken = index_.erase(extents_[id].slot);
      extents_[taken.moved].slot = taken.slot;
    }
  }
  /// The free `id` takes in the free extent behind it.
  void join_next(std::uint32_t id);
  [[nodiscard]] std::size_t page_of(std::uint64_t home) const {
    return static_cast<std::size_t>((home - begin_) / kPage);
  }
  void note_begin(std::uint32_t id);
  void forget_begin(std::uint32_t id);
  /// Gaps that touch become one.
  void join_gaps(std::uint32_t id);

  /// covering() walks the extents that begin in one page: of 4 KiB blocks, 16 at most.
  static constexpr std::uint64_t kPage = 64 << 10;
  /// The first page from `page` on in which an extent begins, or the number of pages.
  [[nodiscard]] std::size_t begun_page(std::size_t page) const;

  std::uint64_t begin_;
  std::uint64_t top_;
  Merge merge_;
  std::vector<Extent> extents_{1};
  std::uint32_t unused_{};  ///< the first of a list
  FreeIndex index_{};
  std::vector<std::uint32_t> loose_{};          ///< each once; some have been taken again
  std::vector<std::uint32_t> first_of_page_{};  ///< the first that begins in a page, or kNone
  std::vector<std::uint64_t> begun_pages_{};    ///< a bit for each page in which one begins
  std::vector<std::uint64_t> begun_words_{};    ///< a bit for each word of begun_pages_ with any
  std::uint32_t gaps_{};
};

}  // namespace peakcast::near_floor
