#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "allocators/coalescing_heap.hpp"

namespace peakcast {

/// Blocks and segments as PyTorch's native allocator sizes them, for policies that change another
/// of its decisions: up to 1 MiB from segments of 2 MiB, else from segments of 20 MiB, and from
/// 10 MiB on a segment of its own in steps of 2 MiB. Source: c10/core/AllocatorConfig.h,
/// "constants" of its re-description.
struct SmallSegments {
  [[nodiscard]] Bytes rounded(Bytes size) const { return round_up(size, kBlock); }
  [[nodiscard]] bool splits(Bytes block, Bytes need) const { return block - need >= kBlock; }
  std::optional<std::pair<Address, Bytes>> grow(Bytes /*need*/, Upstream& upstream,
                                                StreamId stream) const {
    const std::optional<Address> address = upstream.acquire(kSegment, stream);
    return address ? std::optional{std::pair{*address, kSegment}} : std::nullopt;
  }
  void released(Bytes /*size*/) {}

  static constexpr Bytes kBlock{512};
  static constexpr Bytes kSegment{2 << 20};
  static constexpr Bytes kLargestRequest{1 << 20};
};
static_assert(CoalescingRules<SmallSegments>);

struct LargeSegments {
  [[nodiscard]] Bytes rounded(Bytes size) const { return round_up(size, SmallSegments::kBlock); }
  [[nodiscard]] bool splits(Bytes block, Bytes need) const {
    return block - need > SmallSegments::kLargestRequest;
  }
  [[nodiscard]] static Bytes segment_size(Bytes need) {
    return need < kOwnSegment ? kSegment : round_up(need, SmallSegments::kSegment);
  }
  std::optional<std::pair<Address, Bytes>> grow(Bytes need, Upstream& upstream,
                                                StreamId stream) const {
    const Bytes size = segment_size(need);
    const std::optional<Address> address = upstream.acquire(size, stream);
    return address ? std::optional{std::pair{*address, size}} : std::nullopt;
  }
  void released(Bytes /*size*/) {}

  static constexpr Bytes kSegment{20 << 20};
  static constexpr Bytes kOwnSegment{10 << 20};
};
static_assert(CoalescingRules<LargeSegments>);

using SmallHeap = CoalescingHeap<BestFit, SmallSegments>;

/// A small and a large heap behind one face. Block numbers: the lowest bit says which.
template <class Large>
class TwoPools : public StreamHeap {
 public:
  TwoPools(Upstream& upstream, StreamId stream)
      : small_{upstream, stream, SmallSegments{}}, large_{upstream, stream, LargeSegments{}} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override { return small_.rounded(size); }
  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const bool is_small = rounded(size) <= SmallSegments::kLargestRequest;
    std::optional<Grant> grant = is_small ? small_.take(size) : large_.take(size);
    if (grant) {
      grant->block = grant->block << 1U | (is_small ? 1U : 0U);
    }
    return grant;
  }
  void give(std::uint32_t block) override {
    if ((block & 1U) != 0) {
      small_.give(block >> 1U);
    } else {
      large_.give(block >> 1U);
    }
  }
  bool trim() override {
    const bool any = large_.trim();
    return small_.trim() || any;
  }
  [[nodiscard]] Bytes largest_free() const override {
    return std::max(small_.largest_free(), large_.largest_free());
  }
  void append_to(HeapView& view) const override {
    const std::size_t before = view.segments.size();
    small_.append_to(view);
    for (std::size_t i = before; i < view.segments.size(); ++i) {
      view.segments[i].small_pool = true;
    }
    large_.append_to(view);
  }

 protected:
  SmallHeap small_;
  Large large_;
};

}  // namespace peakcast
