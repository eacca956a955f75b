#pragma once

#include <cstdint>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/core/check.hpp"
#include "sim/core/slots.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// The blocks of a heap's segments, linked in address order within each segment; numbers are used
/// again. Knows who is free, not who is looked for: that is the heap's index.
///
///     segment  [ block | free | block |        free        ]
///                 <---->  neighbours: previous, next
class BlockList {
 public:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  struct Block {
    Address address{};
    Bytes size{};
    std::uint32_t previous{kNone};
    std::uint32_t next{kNone};
    std::int64_t tag{};  ///< the heap's own: an age, a class
    bool free{};
    bool live{};
  };

  [[nodiscard]] Block& operator[](std::uint32_t block) { return blocks_[block]; }
  [[nodiscard]] const Block& operator[](std::uint32_t block) const { return blocks_[block]; }
  [[nodiscard]] std::uint32_t size() const { return blocks_.size(); }

  /// A segment as one free block.
  std::uint32_t add_segment(Address address, Bytes size) {
    const std::uint32_t block = make();
    blocks_[block].address = address;
    blocks_[block].size = size;
    blocks_[block].free = true;
    return block;
  }
  /// Precondition: `block` is a whole segment.
  void remove_segment(std::uint32_t block) {
    check(whole(block), "only a whole segment can go");
    drop(block);
  }
  [[nodiscard]] bool whole(std::uint32_t block) const {
    return blocks_[block].previous == kNone && blocks_[block].next == kNone;
  }

  /// `block` keeps its first `size` bytes; the rest is a new free block, which is returned.
  std::uint32_t split(std::uint32_t block, Bytes size) {
    const std::uint32_t rest = make();
    Block& front = blocks_[block];
    Block& back = blocks_[rest];
    check(size > Bytes{} && size < front.size, "a split leaves two blocks");
    back.address = front.address + size;
    back.size = front.size - size;
    back.previous = block;
    back.next = front.next;
    back.free = true;
    if (back.next != kNone) {
      blocks_[back.next].previous = rest;
    }
    front.next = rest;
    front.size = size;
    return rest;
  }
  /// `block` takes its next neighbour in, which ceases to be.
  void absorb_next(std::uint32_t block) {
    Block& front = blocks_[block];
    const std::uint32_t gone = front.next;
    front.size += blocks_[gone].size;
    front.next = blocks_[gone].next;
    if (front.next != kNone) {
      blocks_[front.next].previous = block;
    }
    drop(gone);
  }

  void append_to(HeapView& view, StreamId stream) const {
    for (std::uint32_t first = 0; first < blocks_.size(); ++first) {
      if (!blocks_[first].live || blocks_[first].previous != kNone) {
        continue;
      }
      SegmentView segment{.address = blocks_[first].address, .stream = stream};
      for (std::uint32_t b = first; b != kNone; b = blocks_[b].next) {
        segment.size += blocks_[b].size;
        segment.blocks.push_back(
            BlockView{.address = blocks_[b].address,
                      .size = blocks_[b].size,
                      .state = blocks_[b].free ? BlockState::free : BlockState::allocated,
                      .stream = stream});
      }
      view.segments.push_back(std::move(segment));
    }
  }

 private:
  std::uint32_t make() {
    const std::uint32_t block = blocks_.take();
    blocks_[block].live = true;
    return block;
  }
  void drop(std::uint32_t block) {
    blocks_[block].live = false;
    blocks_.give_back(block);
  }

  Slots<Block> blocks_{};
};

}  // namespace peakcast
