#include "allocators/buddy.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <set>
#include <utility>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/stream_heaps.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kLeast = 512_B;

int order_of(Bytes size) {
  return std::countr_zero(std::bit_ceil(static_cast<std::uint64_t>(size.count())));
}
Bytes size_of(int order) { return Bytes{std::int64_t{1} << order}; }

class BuddyHeap final : public StreamHeap {
 public:
  BuddyHeap(Upstream& upstream, StreamId stream, Bytes segment)
      : upstream_{upstream}, stream_{stream}, segment_{segment} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override {
    return size_of(order_of(std::max(size, kLeast)));
  }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const int order = order_of(std::max(size, kLeast));
    int have = order;
    while (have < kOrders && free_[at(have)].empty()) {
      ++have;
    }
    if (have == kOrders) {
      // A segment that the driver refuses is halved, down to the block itself.
      have = order_of(std::max(rounded(size), segment_));
      std::optional<Address> address = upstream_.acquire(size_of(have), stream_);
      while (!address && have > order) {
        --have;
        address = upstream_.acquire(size_of(have), stream_);
      }
      if (!address) {
        return std::nullopt;
      }
      free_[at(have)].emplace(*address, add_segment(*address, have));
    }
    const auto [address, segment] = *free_[at(have)].begin();
    free_[at(have)].erase(free_[at(have)].begin());
    while (have > order) {
      --have;
      free_[at(have)].emplace(address + size_of(have), segment);
    }
    const std::uint32_t number = taken_.take(Taken{address, order, segment, true});
    return Grant{address, size_of(order), number};
  }

  void give(std::uint32_t block) override {
    auto [address, order, segment, live] = taken_[block];
    taken_[block].live = false;
    taken_.give_back(block);
    const Address base = segments_[segment].base;
    while (order < segments_[segment].order) {
      const auto offset = static_cast<std::uint64_t>((address - base).count());
      const auto flipped = static_cast<std::int64_t>(offset ^ (std::uint64_t{1} << order));
      const auto buddy = free_[at(order)].find({base + Bytes{flipped}, segment});
      if (buddy == free_[at(order)].end()) {
        break;
      }
      address = std::min(address, buddy->first);
      free_[at(order)].erase(buddy);
      ++order;
    }
    free_[at(order)].emplace(address, segment);
  }

  bool trim() override {
    bool any = false;
    for (std::uint32_t number = 0; number < segments_.size(); ++number) {
      Segment& segment = segments_[number];
      if (segment.live && free_[at(segment.order)].erase({segment.base, number}) > 0) {
        upstream_.release(segment.base, size_of(segment.order), stream_);
        segment.live = false;
        any = true;
      }
    }
    return any;
  }

  [[nodiscard]] Bytes largest_free() const override {
    for (int order = kOrders; order-- > 0;) {
      if (!free_[at(order)].empty()) {
        return size_of(order);
      }
    }
    return {};
  }

  void append_to(HeapView& view) const override {
    std::vector<std::vector<BlockView>> blocks(segments_.size());
    for (const Taken& taken : taken_) {
      if (taken.live) {
        blocks[taken.segment].push_back({.address = taken.address,
                                         .size = size_of(taken.order),
                                         .state = BlockState::allocated,
                                         .stream = stream_});
      }
    }
    for (int order = 0; order < kOrders; ++order) {
      for (const auto& [address, segment] : free_[at(order)]) {
        blocks[segment].push_back({.address = address, .size = size_of(order), .stream = stream_});
      }
    }
    for (std::size_t number = 0; number < segments_.size(); ++number) {
      const Segment& segment = segments_[number];
      if (!segment.live) {
        continue;
      }
      std::sort(blocks[number].begin(), blocks[number].end(),
                [](const BlockView& a, const BlockView& b) { return a.address < b.address; });
      view.segments.push_back({.address = segment.base,
                               .size = size_of(segment.order),
                               .stream = stream_,
                               .blocks = std::move(blocks[number])});
    }
  }

 private:
  static constexpr int kOrders = 48;
  static std::size_t at(int order) { return static_cast<std::size_t>(order); }
  struct Segment {
    Address base{};
    int order{};
    bool live{};
  };
  struct Taken {
    Address address{};
    int order{};
    std::uint32_t segment{};
    bool live{};
  };

  std::uint32_t add_segment(Address base, int order) {
    segments_.push_back({base, order, true});
    return static_cast<std::uint32_t>(segments_.size() - 1);
  }

  Upstream& upstream_;
  StreamId stream_;
  Bytes segment_;
  std::vector<Segment> segments_{};
  Slots<Taken> taken_{};
  /// By order: (address, segment).
  std::array<std::set<std::pair<Address, std::uint32_t>>, kOrders> free_{};
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_buddy(Device& device, Streams& streams,
                                                const PolicyOptions& options) {
  Bytes segment = 64_MiB;
  const std::array settings{PolicySetting{.key = "segment", .size = &segment, .minimum = 512}};
  if (const auto read = read_settings("buddy", options, settings); !read) {
    return read.error();
  }
  if (!std::has_single_bit(static_cast<std::uint64_t>(segment.count())) || segment > 1024_GiB) {
    return invalid_input("buddy's segment must be a power of two of at most 1 TiB");
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "buddy", .limit = options.limit},
      [segment](Upstream& upstream, StreamId stream) {
        return std::make_unique<BuddyHeap>(upstream, stream, segment);
      })};
}

}  // namespace peakcast
