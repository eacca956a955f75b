#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "sim/core/check.hpp"

namespace peakcast {

/// Free blocks ordered by (size, address), both ascending: the order in which a best-fit policy
/// looks. A sorted array cut into leaves of at most kLeaf entries, because the free lists of real
/// runs hold tens to hundreds of blocks: a binary search and a short memmove in one or two cache
/// lines beat any node-based tree there, and beyond it grows like a B-tree.
///
/// Sizes are in units of the caller's choice (32 bits); addresses and block numbers are the
/// caller's. O(log n + kLeaf + n / kLeaf) per operation.
class FreeIndex {
 public:
  struct Entry {
    std::uint32_t size{};
    std::uint32_t block{};
    std::uint64_t address{};
  };
  /// A place in the order; valid until the next change.
  struct Position {
    std::uint32_t leaf{};
    std::uint32_t slot{};
    friend bool operator==(const Position&, const Position&) = default;
  };

  FreeIndex() { leaves_.push_back(std::make_unique<Leaf>()); }

  [[nodiscard]] bool empty() const { return leaves_.front()->count == 0; }
  [[nodiscard]] bool at_end(Position p) const { return p.slot >= leaves_[p.leaf]->count; }
  [[nodiscard]] bool at_begin(Position p) const { return p.leaf == 0 && p.slot == 0; }
  [[nodiscard]] const Entry& operator[](Position p) const {
    return leaves_[p.leaf]->entries[p.slot];
  }
  [[nodiscard]] Position begin() const { return Position{0, 0}; }
  [[nodiscard]] Position next(Position p) const {
    ++p.slot;
    if (p.slot >= leaves_[p.leaf]->count && p.leaf + 1 < leaves_.size()) {
      return Position{p.leaf + 1, 0};
    }
    return p;
  }
  /// Precondition: not at_begin(p).
  [[nodiscard]] Position previous(Position p) const {
    if (p.slot > 0) {
      return Position{p.leaf, p.slot - 1};
    }
    return Position{p.leaf - 1, leaves_[p.leaf - 1]->count - 1};
  }

  /// The first entry not less than (size, address).
  [[nodiscard]] Position lower_bound(std::uint32_t size, std::uint64_t address) const {
    std::uint32_t leaf = 0;
    if (leaves_.size() > 1) [[unlikely]] {
      leaf = leaf_for(size, address);
    }
    const Leaf& l = *leaves_[leaf];
    // Branchless: the searched half is chosen by arithmetic, so that nothing is mispredicted.
    const Entry* base = l.entries.data();
    std::uint32_t length = l.count;
    while (length > 0) {
      const std::uint32_t half = length / 2;
      const Entry& middle = base[half];
      const bool before = middle.size < size || (middle.size == size && middle.address < address);
      base = before ? base + half + 1 : base;
      length = before ? length - half - 1 : half;
    }
    const auto slot = static_cast<std::uint32_t>(base - l.entries.data());
    if (slot >= l.count && leaf + 1 < leaves_.size()) {
      return Position{leaf + 1, 0};
    }
    return Position{leaf, slot};
  }

  void insert(const Entry& entry) {
    Position p = lower_bound(entry.size, entry.address);
    if (p.slot == 0 && p.leaf > 0) {
      // Append to the leaf before rather than shift the whole of this one.
      p = Position{p.leaf - 1, leaves_[p.leaf - 1]->count};
    }
    if (leaves_[p.leaf]->count == kLeaf) [[unlikely]] {
      p = split(p);
    }
    Leaf& leaf = *leaves_[p.leaf];
    for (std::uint32_t i = leaf.count; i > p.slot; --i) {
      leaf.entries[i] = leaf.entries[i - 1];
    }
    leaf.entries[p.slot] = entry;
    ++leaf.count;
  }

  void erase(Position p) {
    Leaf& leaf = *leaves_[p.leaf];
    --leaf.count;
    for (std::uint32_t i = p.slot; i < leaf.count; ++i) {
      leaf.entries[i] = leaf.entries[i + 1];
    }
    if (leaf.count == 0 && leaves_.size() > 1) [[unlikely]] {
      leaves_.erase(leaves_.begin() + p.leaf);
    }
  }

  /// Precondition: (size, address) is in the index.
  void erase(std::uint32_t size, std::uint64_t address) {
    const Position p = lower_bound(size, address);
    check(!at_end(p) && (*this)[p].address == address, "a free block is not in its index");
    erase(p);
  }

  /// Replaces the entry at `p` by a smaller one (what is left after a split): one shift instead of
  /// an erase and an insert. Precondition: entry.size < the old size, or equal and lower address.
  void shrink(Position p, const Entry& entry) {
    Leaf& leaf = *leaves_[p.leaf];
    const Entry& first = leaf.entries.front();
    if (first.size < entry.size || p.leaf == 0) {
      // It stays in this leaf: those between its new and its old place move up by one.
      std::uint32_t i = p.slot;
      while (i > 0 && (leaf.entries[i - 1].size > entry.size ||
                       (leaf.entries[i - 1].size == entry.size &&
                        leaf.entries[i - 1].address > entry.address))) {
        leaf.entries[i] = leaf.entries[i - 1];
        --i;
      }
      leaf.entries[i] = entry;
      return;
    }
    erase(p);
    insert(entry);
  }

 private:
  static constexpr std::uint32_t kLeaf = 64;
  struct Leaf {
    std::uint32_t count{};
    std::array<Entry, kLeaf> entries;
  };

  [[nodiscard]] std::uint32_t leaf_for(std::uint32_t size, std::uint64_t address) const {
    // The first leaf whose last entry is not less; the last leaf when there is none.
    std::size_t low = 0;
    std::size_t high = leaves_.size() - 1;
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      const Leaf& leaf = *leaves_[middle];
      const Entry& last = leaf.entries[leaf.count - 1];
      if (last.size < size || (last.size == size && last.address < address)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return static_cast<std::uint32_t>(low);
  }

  Position split(Position p) {
    auto upper = std::make_unique<Leaf>();
    Leaf& lower = *leaves_[p.leaf];
    constexpr std::uint32_t kHalf = kLeaf / 2;
    for (std::uint32_t i = kHalf; i < lower.count; ++i) {
      upper->entries[i - kHalf] = lower.entries[i];
    }
    upper->count = lower.count - kHalf;
    lower.count = kHalf;
    leaves_.insert(leaves_.begin() + p.leaf + 1, std::move(upper));
    return p.slot <= kHalf ? p : Position{p.leaf + 1, p.slot - kHalf};
  }

  std::vector<std::unique_ptr<Leaf>> leaves_{};  // never empty; only a lone leaf has no entries
};

}  // namespace peakcast
