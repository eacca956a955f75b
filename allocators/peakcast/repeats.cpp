#include "allocators/peakcast/repeats.hpp"

#include <algorithm>

namespace peakcast::near_floor {
namespace {

constexpr std::uint32_t kHashBits = 16;

}  // namespace

Repeats::Repeats() : ring_(kKept), latest_(std::size_t{1} << kHashBits), previous_(kKept) {}

std::uint32_t Repeats::hash() const {
  std::uint64_t hash = 0;
  for (std::uint64_t i = count_ - kContext; i < count_; ++i) {
    hash = (hash ^ units_at(i)) * 0x9e3779b97f4a7c15ULL;
    hash ^= hash >> 32U;
  }
  return static_cast<std::uint32_t>(hash >> (64 - kHashBits));
}

void Repeats::note(std::uint32_t slot) {
  previous_[(count_ - 1) & kMask] = latest_[slot];
  latest_[slot] = static_cast<std::uint32_t>(count_);
}

std::uint64_t Repeats::search(std::uint32_t slot) const {
  std::uint64_t best = 0;
  std::uint64_t longest = kContext - 1;
  std::uint32_t candidate = latest_[slot];
  for (int i = 0; i < kCandidates && candidate != 0; ++i) {
    const std::uint64_t end = candidate;  // one behind the request
    const std::uint64_t distance = static_cast<std::uint32_t>(count_) - end;
    if (distance == 0 || distance + kContext >= kKept) {
      break;
    }
    const std::uint64_t most = std::min({kLongest, end, kKept - distance});
    std::uint64_t agreed = 0;
    while (agreed < most && units_at(end - 1 - agreed) == units_at(count_ - 1 - agreed)) {
      ++agreed;
    }
    if (agreed > longest) {
      longest = agreed;
      best = distance;
    }
    candidate = previous_[(end - 1) & kMask];
    if (candidate >= end) {
      break;
    }
  }
  return best;
}

void Repeats::next(std::uint32_t units) {
  ring_[count_ & kMask] = Place{.units = units};
  ++count_;
  if (distance_ != 0) {
    if (units_at(count_ - 1 - distance_) == units) [[likely]] {
      if (count_ % kNoted == 0) {
        note(hash());
      }
      return;
    }
    distance_ = 0;
  }
  if (count_ < kContext) {
    return;
  }
  const std::uint32_t slot = hash();
  distance_ = search(slot);
  note(slot);
}

}  // namespace peakcast::near_floor
