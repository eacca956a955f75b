#include "sim/alloc/check_heap.hpp"

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace peakcast {
namespace {

std::string range(Address from, Bytes size) {
  return fmt::format("[{:#x}, {:#x})", from.value(), (from + size).value());
}

Expected<Ok> check_segment(const SegmentView& segment, const HeapRules& rules) {
  Address at = segment.address;
  bool after_free = false;
  for (const BlockView& block : segment.blocks) {
    if (block.size <= Bytes{}) {
      return invalid_input(fmt::format("the block at {:#x} is empty", block.address.value()));
    }
    if (block.address != at) {
      return invalid_input(fmt::format("the block {} does not follow the one that ends at {:#x}",
                                       range(block.address, block.size), at.value()));
    }
    const bool free = block.state == BlockState::free;
    if (!free && block.requested > block.size) {
      return invalid_input(fmt::format("the block {} holds less than the {} bytes requested",
                                       range(block.address, block.size), block.requested.count()));
    }
    if (rules.coalesces && free && after_free) {
      return invalid_input(fmt::format("the free block {} touches another free block",
                                       range(block.address, block.size)));
    }
    after_free = free;
    at = at + block.size;
  }
  if (at != segment.address + segment.size) {
    return invalid_input(fmt::format("the blocks of segment {} end at {:#x}",
                                     range(segment.address, segment.size), at.value()));
  }
  return Ok{};
}

Expected<Ok> check_sum(std::string_view what, Bytes shown, std::int64_t booked) {
  if (shown.count() != booked) {
    return invalid_input(
        fmt::format("{} bytes are {} in the heap, {} in the books", shown.count(), what, booked));
  }
  return Ok{};
}

}  // namespace

Expected<Ok> check_heap(const HeapView& heap, const Statistics& statistics,
                        const HeapRules& rules) {
  Bytes allocated{};
  Bytes active{};
  Bytes reserved{};
  const SegmentView* before = nullptr;
  for (const SegmentView& segment : heap.segments) {
    if (before != nullptr && segment.address < before->address + before->size) {
      return invalid_input(fmt::format("segment {} begins before segment {} ends",
                                       range(segment.address, segment.size),
                                       range(before->address, before->size)));
    }
    before = &segment;
    if (auto checked = check_segment(segment, rules); !checked) {
      return checked;
    }
    if (!segment.on_host) {
      reserved += segment.size;
    }
    for (const BlockView& block : segment.blocks) {
      if (block.state == BlockState::allocated) {
        allocated += block.size;
      }
      if (block.state != BlockState::free) {
        active += block.size;
      }
    }
  }
  if (auto sum = check_sum("allocated", allocated, statistics.allocated.current); !sum) {
    return sum;
  }
  if (auto sum = check_sum("active", active, statistics.active.current); !sum) {
    return sum;
  }
  if (!rules.hides_memory) {
    return check_sum("reserved", reserved, statistics.reserved.current);
  }
  return Ok{};
}

}  // namespace peakcast
