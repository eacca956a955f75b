#include "allocators/cuda_malloc.hpp"

#include <map>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/stream_heaps.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kPage = 2_MiB;
constexpr Bytes kShares = 1_MiB;  // the largest request that shares a page
constexpr Bytes kStep = 512_B;

class DriverHeap final : public StreamHeap {
 public:
  explicit DriverHeap(Upstream& upstream) : upstream_{upstream} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override {
    return round_up(size, size <= kShares ? kStep : kPage);
  }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    // Which page a small one lands on shows only afterwards, so the limit asks for a whole one.
    if (!upstream_.within_limit(round_up(size, kPage))) {
      return std::nullopt;
    }
    const Bytes block = rounded(size);
    const std::optional<Address> address = upstream_.device().acquire(block);
    if (!address) {
      return std::nullopt;
    }
    upstream_.count_segments(1);
    upstream_.say(Action::segment_alloc, *address, block, StreamId{});
    if (block > kShares) {
      upstream_.count_reserved(block);
    } else if (pages_[page_of(*address)]++ == 0) {
      upstream_.count_reserved(kPage);
    }
    const std::uint32_t number = taken_.take({*address, block, true});
    return Grant{*address, block, number};
  }

  void give(std::uint32_t number) override {
    Taken& taken = taken_[number];
    taken.live = false;
    taken_.give_back(number);
    upstream_.device().release(taken.address);
    upstream_.count_segments(-1);
    upstream_.say(Action::segment_free, taken.address, taken.size, StreamId{});
    if (taken.size > kShares) {
      upstream_.count_reserved(Bytes{} - taken.size);
    } else if (--pages_[page_of(taken.address)] == 0) {
      pages_.erase(page_of(taken.address));
      upstream_.count_reserved(Bytes{} - kPage);
    }
  }

  bool trim() override { return false; }
  [[nodiscard]] Bytes largest_free() const override { return {}; }

  /// A shared page is a segment; what nobody holds of it is free.
  void append_to(HeapView& view) const override {
    std::map<Address, std::map<Address, Bytes>> shared;
    for (const Taken& taken : taken_) {
      if (!taken.live) {
        continue;
      }
      if (taken.size <= kShares) {
        shared[Address{page_of(taken.address)}].emplace(taken.address, taken.size);
        continue;
      }
      view.segments.push_back({.address = taken.address, .size = taken.size});
      view.segments.back().blocks.push_back(
          {.address = taken.address, .size = taken.size, .state = BlockState::allocated});
    }
    for (const auto& [page, blocks] : shared) {
      SegmentView segment{.address = page, .size = kPage, .small_pool = true};
      Address at = page;
      const auto gap = [&](Address to) {
        if (at < to) {
          segment.blocks.push_back({.address = at, .size = to - at});
        }
      };
      for (const auto& [address, size] : blocks) {
        gap(address);
        segment.blocks.push_back(
            {.address = address, .size = size, .state = BlockState::allocated});
        at = address + size;
      }
      gap(page + kPage);
      view.segments.push_back(std::move(segment));
    }
  }

 private:
  struct Taken {
    Address address{};
    Bytes size{};
    bool live{};
  };
  static std::uint64_t page_of(Address address) {
    return address.value() - address.value() % static_cast<std::uint64_t>(kPage.count());
  }

  Upstream& upstream_;
  Slots<Taken> taken_{};
  std::map<std::uint64_t, int> pages_{};  ///< shared page -> blocks on it
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_cuda_malloc(Device& device, Streams& streams,
                                                      const PolicyOptions& options) {
  if (const auto read = read_settings("cuda-malloc", options, {}); !read) {
    return read.error();
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams,
      StreamHeaps::Options{
          .name = "cuda-malloc", .limit = options.limit, .one_heap = true, .frees_wait = true},
      [](Upstream& upstream, StreamId /*stream*/) {
        return std::make_unique<DriverHeap>(upstream);
      })};
}

}  // namespace peakcast
