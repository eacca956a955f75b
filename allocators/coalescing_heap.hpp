#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "allocators/block_list.hpp"
#include "allocators/stream_heaps.hpp"

namespace peakcast {

/// Finds free blocks: the fit rule of a coalescing heap.
template <class I>
concept BlockIndex = requires(I index, const I& constant, Bytes size, const BlockList::Block& block,
                              std::uint32_t number) {
  {index.insert(number, block)};
  {index.erase(number, block)};
  { constant.find(size) } -> std::same_as<std::uint32_t>;  ///< BlockList::kNone when none fits
  { constant.largest() } -> std::same_as<Bytes>;
};

/// The smallest block that holds the request; ties to the lowest address. O(log n).
class BestFit {
 public:
  void insert(std::uint32_t number, const BlockList::Block& block) {
    free_.emplace(block.size, block.address, number);
  }
  void erase(std::uint32_t number, const BlockList::Block& block) {
    free_.erase({block.size, block.address, number});
  }
  [[nodiscard]] std::uint32_t find(Bytes size) const {
    const auto at = free_.lower_bound({size, Address{}, 0});
    return at == free_.end() ? BlockList::kNone : std::get<2>(*at);
  }
  [[nodiscard]] Bytes largest() const {
    return free_.empty() ? Bytes{} : std::get<0>(*free_.rbegin());
  }

 private:
  std::set<std::tuple<Bytes, Address, std::uint32_t>> free_{};
};
static_assert(BlockIndex<BestFit>);

/// The small decisions of a coalescing heap.
template <class R>
concept CoalescingRules = requires(R rules, const R& constant, Bytes size, Upstream& upstream,
                                   StreamId stream) {
  /// The block size of a request.
  { constant.rounded(size) } -> std::same_as<Bytes>;
  /// Whether a block of the first size is split for a block of the second.
  { constant.splits(size, size) } -> std::same_as<bool>;
  /// A segment of at least `size` from the driver, or nothing.
  { rules.grow(size, upstream, stream) } -> std::same_as<std::optional<std::pair<Address, Bytes>>>;
  {rules.released(size)};
};

/// Segments cut into blocks; a freed block joins its free neighbours at once.
template <BlockIndex Index, CoalescingRules Rules>
class CoalescingHeap : public StreamHeap {
 public:
  CoalescingHeap(Upstream& upstream, StreamId stream, Rules rules)
      : upstream_{upstream}, stream_{stream}, rules_{std::move(rules)} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override { return rules_.rounded(size); }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const Bytes need = rules_.rounded(size);
    std::uint32_t block = index_.find(need);
    if (block == BlockList::kNone) {
      const auto segment = rules_.grow(need, upstream_, stream_);
      if (!segment) {
        return std::nullopt;
      }
      block = blocks_.add_segment(segment->first, segment->second);
    } else {
      index_.erase(block, blocks_[block]);
    }
    blocks_[block].free = false;
    if (blocks_[block].size > need && rules_.splits(blocks_[block].size, need)) {
      const std::uint32_t rest = blocks_.split(block, need);
      index_.insert(rest, blocks_[rest]);
    }
    return Grant{blocks_[block].address, blocks_[block].size, block};
  }

  void give(std::uint32_t block) override {
    const std::uint32_t next = blocks_[block].next;
    if (next != BlockList::kNone && blocks_[next].free) {
      index_.erase(next, blocks_[next]);
      blocks_.absorb_next(block);
    }
    const std::uint32_t previous = blocks_[block].previous;
    if (previous != BlockList::kNone && blocks_[previous].free) {
      index_.erase(previous, blocks_[previous]);
      blocks_.absorb_next(previous);
      block = previous;
    }
    blocks_[block].free = true;
    index_.insert(block, blocks_[block]);
    became_free(block);
  }

  bool trim() override {
    bool any = false;
    for (std::uint32_t block = 0; block < blocks_.size(); ++block) {
      if (blocks_[block].live && blocks_[block].free && blocks_.whole(block)) {
        release(block);
        any = true;
      }
    }
    return any;
  }

  [[nodiscard]] Bytes largest_free() const override { return index_.largest(); }
  void append_to(HeapView& view) const override { blocks_.append_to(view, stream_); }

 protected:
  /// A free run, as it is after joining.
  virtual void became_free(std::uint32_t /*block*/) {}

  void release(std::uint32_t block) {
    const Bytes size = blocks_[block].size;
    index_.erase(block, blocks_[block]);
    upstream_.release(blocks_[block].address, size, stream_);
    blocks_.remove_segment(block);
    rules_.released(size);
  }

  Upstream& upstream_;
  StreamId stream_;
  Rules rules_;
  BlockList blocks_{};
  Index index_{};
};

}  // namespace peakcast
