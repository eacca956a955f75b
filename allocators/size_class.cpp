#include "allocators/size_class.hpp"

#include <map>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/size_classes.hpp"
#include "allocators/stream_heaps.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kLeast = 512_B;
constexpr Bytes kSlab = 2_MiB;
constexpr Bytes kSmall = 1_MiB;

class SizeClassHeap final : public StreamHeap {
 public:
  SizeClassHeap(Upstream& upstream, StreamId stream) : upstream_{upstream}, stream_{stream} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override {
    const Bytes rounded = size_class(size, kLeast);
    return rounded <= kSmall ? rounded : round_up(rounded, kSlab);
  }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const Bytes need = rounded(size);
    std::vector<std::uint32_t>& free = free_[need];
    if (free.empty() && !add_segment(need, free)) {
      return std::nullopt;
    }
    const std::uint32_t block = free.back();
    free.pop_back();
    blocks_[block].free = false;
    ++segments_[blocks_[block].segment].used;
    return Grant{blocks_[block].address, need, block};
  }

  void give(std::uint32_t block) override {
    blocks_[block].free = true;
    Segment& segment = segments_[blocks_[block].segment];
    --segment.used;
    free_[segment.block_size].push_back(block);
  }

  bool trim() override {
    bool any = false;
    for (auto& [size, free] : free_) {
      std::erase_if(free, [&](std::uint32_t block) {
        const bool goes = segments_[blocks_[block].segment].used == 0;
        if (goes) {
          blocks_.give_back(block);
        }
        return goes;
      });
    }
    for (Segment& segment : segments_) {
      if (segment.live && segment.used == 0) {
        upstream_.release(segment.address, segment.size, stream_);
        segment.live = false;
        any = true;
      }
    }
    return any;
  }

  [[nodiscard]] Bytes largest_free() const override {
    for (auto size = free_.rbegin(); size != free_.rend(); ++size) {
      if (!size->second.empty()) {
        return size->first;
      }
    }
    return {};
  }

  void append_to(HeapView& view) const override {
    for (const Segment& segment : segments_) {
      if (!segment.live) {
        continue;
      }
      SegmentView shown{.address = segment.address, .size = segment.size, .stream = stream_};
      for (const std::uint32_t block : segment.blocks) {
        shown.blocks.push_back(
            {.address = blocks_[block].address,
             .size = segment.block_size,
             .state = blocks_[block].free ? BlockState::free : BlockState::allocated,
             .stream = stream_});
      }
      // What is left of a slab behind its last whole block serves nobody.
      const Address end = shown.blocks.back().address + segment.block_size;
      if (end < segment.address + segment.size) {
        shown.blocks.push_back(
            {.address = end, .size = segment.address + segment.size - end, .stream = stream_});
      }
      view.segments.push_back(std::move(shown));
    }
  }

 private:
  struct Block {
    Address address{};
    std::uint32_t segment{};
    bool free{};
  };
  struct Segment {
    Address address{};
    Bytes size{};
    Bytes block_size{};
    std::int64_t used{};
    bool live{};
    std::vector<std::uint32_t> blocks{};  ///< ascending
  };

  bool add_segment(Bytes block_size, std::vector<std::uint32_t>& free) {
    const Bytes size = std::max(block_size, kSlab);
    const std::optional<Address> address = upstream_.acquire(size, stream_);
    if (!address) {
      return false;
    }
    Segment segment{.address = *address, .size = size, .block_size = block_size, .live = true};
    const std::int64_t count = size.count() / block_size.count();
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t block = blocks_.take(
          {*address + block_size * i, static_cast<std::uint32_t>(segments_.size()), true});
      segment.blocks.push_back(block);
    }
    // The lowest is used first.
    free.insert(free.end(), segment.blocks.rbegin(), segment.blocks.rend());
    segments_.push_back(std::move(segment));
    return true;
  }

  Upstream& upstream_;
  StreamId stream_;
  Slots<Block> blocks_{};
  std::vector<Segment> segments_{};
  std::map<Bytes, std::vector<std::uint32_t>> free_{};  ///< by block size; the last freed last
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_size_class(Device& device, Streams& streams,
                                                     const PolicyOptions& options) {
  if (const auto read = read_settings("size-class", options, {}); !read) {
    return read.error();
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "size-class", .limit = options.limit},
      [](Upstream& upstream, StreamId stream) {
        return std::make_unique<SizeClassHeap>(upstream, stream);
      })};
}

}  // namespace peakcast
