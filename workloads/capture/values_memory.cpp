#include "workloads/capture/values_memory.hpp"

#include <algorithm>
#include <iterator>

namespace peakcast::capture {

void KnownMemory::forget(std::uint64_t start, std::uint64_t size) {
  const std::uint64_t end = start + size;
  auto at = ranges_.upper_bound(start);
  if (at != ranges_.begin() && std::prev(at)->second > start) {
    --at;
  }
  while (at != ranges_.end() && at->first < end) {
    const auto [first, last] = *at;
    at = ranges_.erase(at);
    bytes_ -= last - first;
    if (first < start) {
      ranges_.emplace(first, start);
      bytes_ += start - first;
    }
    if (last > end) {
      at = ranges_.emplace(end, last).first;
      bytes_ += last - end;
      break;
    }
  }
}

void KnownMemory::learn(std::uint64_t start, std::uint64_t size) {
  if (size == 0) {
    return;
  }
  forget(start, size);
  std::uint64_t end = start + size;
  auto after = ranges_.lower_bound(end);
  if (after != ranges_.end() && after->first == end) {
    end = after->second;
    after = ranges_.erase(after);
  }
  bytes_ += size;
  if (after != ranges_.begin() && std::prev(after)->second == start) {
    std::prev(after)->second = end;
  } else {
    ranges_.emplace_hint(after, start, end);
  }
}

bool KnownMemory::knows(std::uint64_t start, std::uint64_t size) const {
  const auto after = ranges_.upper_bound(start);
  return after != ranges_.begin() && std::prev(after)->second >= start + size;
}

}  // namespace peakcast::capture
