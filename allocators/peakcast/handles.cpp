#include "allocators/peakcast/handles.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace peakcast::near_floor {
namespace {

Bytes bytes(std::uint64_t count) { return Bytes{static_cast<std::int64_t>(count)}; }

}  // namespace

Handles::Handles(Device& device, std::uint64_t begin, std::uint64_t granularity)
    : device_{device}, begin_{begin}, granularity_{granularity} {}

std::uint64_t Handles::create(std::uint64_t home, std::uint64_t size, std::uint64_t handle_size) {
  check(size % granularity_ == 0 && handle_size % granularity_ == 0, "handles of whole pages");
  std::vector<PhysicalId> made;
  std::uint64_t got = 0;
  while (got < size) {
    // What is left is shared evenly, so that no last handle is tiny.
    const std::uint64_t left = size - got;
    const std::uint64_t parts = (left + handle_size - 1) / handle_size;
    std::uint64_t part = (left / parts + granularity_ - 1) / granularity_ * granularity_;
    std::optional<PhysicalId> physical = device_.create(bytes(part));
    if (!physical && part > granularity_) {
      part = granularity_;  // a card that is nearly full
      physical = device_.create(bytes(part));
    }
    if (!physical) {
      break;
    }
    std::uint32_t id = static_cast<std::uint32_t>(handles_.size());
    if (unused_.empty()) {
      handles_.emplace_back();
    } else {
      id = unused_.back();
      unused_.pop_back();
    }
    handles_[id] = Handle{.home = home + got, .size = part, .physical = *physical};
    const std::size_t first = page_of(home + got);
    const std::size_t last = first + part / granularity_;
    if (last > of_page_.size()) {
      of_page_.resize(last + last / 2, kNone);
    }
    std::fill(of_page_.begin() + static_cast<std::ptrdiff_t>(first),
              of_page_.begin() + static_cast<std::ptrdiff_t>(last), id);
    made.push_back(*physical);
    got += part;
    ++count_;
  }
  if (got > 0) {
    device_.map_run(Address{home}, made);
    held_ += got;
  }
  return got;
}

void Handles::destroy(std::uint64_t home, std::uint64_t size) {
  device_.unmap(Address{home}, bytes(size));
  for (std::uint64_t address = home; address < home + size;) {
    const std::uint32_t id = at(address);
    Handle& handle = handles_[id];
    check(handle.home == address && handle.views.empty(), "a handle that is still mapped");
    device_.destroy(handle.physical);
    const std::size_t first = page_of(address);
    std::fill_n(of_page_.begin() + static_cast<std::ptrdiff_t>(first), handle.size / granularity_,
                kNone);
    address += handle.size;
    held_ -= handle.size;
    handle = Handle{};
    unused_.push_back(id);
    --count_;
  }
}

}  // namespace peakcast::near_floor
