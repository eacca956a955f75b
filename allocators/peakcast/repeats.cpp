#include "allocators/peakcast/repeats.hpp"

namespace peakcast::near_floor {
namespace {

constexpr std::uint32_t kHashBits = 16;

}  // namespace

Repeats::Repeats()
    : ring_(kFirstKept), latest_(std::size_t{1} << kHashBits), previous_(kFirstKept) {}

std::uint32_t Repeats::hash() const {
  std::uint64_t hash = 0;
  for (std::uint64_t i = count_ - kContext; i < count_; ++i) {
    hash = (hash ^ at(i).units) * 0x9e3779b97f4a7c15ULL;
    hash ^= hash >> 32U;
  }
  return static_cast<std::uint32_t>(hash >> (64 - kHashBits));
}

void Repeats::note(std::uint32_t slot) {
  previous_[(count_ - 1) & kMask] = latest_[slot];
  latest_[slot] = static_cast<std::uint32_t>(count_);
}

Repeats::Agreement Repeats::agreement(std::uint64_t distance) const {
  const std::uint64_t most = std::min({kLongest, count_ - distance, kKept - distance});
  Agreement agreed;
  bool exact = true;
  while (agreed.sizes < most) {
    const Request& now = at(count_ - 1 - agreed.sizes);
    const Request& then = at(count_ - 1 - agreed.sizes - distance);
    if (now.units != then.units) {
      break;
    }
    exact = exact && now.drops == then.drops;
    agreed.exact += exact ? 1U : 0U;
    ++agreed.sizes;
  }
  return agreed;
}

std::uint64_t Repeats::search(std::uint32_t slot) const {
  std::uint64_t best = 0;
  Agreement longest{0, kContext - 1};
  std::uint32_t candidate = latest_[slot];
  for (int i = 0; i < kCandidates && candidate != 0; ++i) {
    const std::uint32_t distance = static_cast<std::uint32_t>(count_) - candidate;
    if (distance == 0 || distance + kContext >= kKept) {
      break;
    }
    const Agreement agreed = agreement(distance);
    if (agreed.sizes >= kContext && agreed > longest) {
      longest = agreed;
      best = distance;
    }
    const std::uint32_t before = previous_[(candidate - 1) & kMask];
    if (before >= candidate) {
      break;  // it has been written over
    }
    candidate = before;
  }
  return best;
}

void Repeats::next(std::uint32_t units, std::uint32_t live) {
  if (count_ == ring_.size() && count_ < kKept) [[unlikely]] {
    ring_.resize(2 * ring_.size());  // nothing has been written over yet
    previous_.resize(ring_.size());
  }
  ring_[count_ & kMask] = Request{.units = units, .drops = drops_, .live = live};
  drops_ = 0;
  ++count_;
  if (distance_ != 0) {
    const Request& then = at(count_ - 1 - distance_);
    if (then.units == units) [[likely]] {
      if (then.drops != at(count_ - 1).drops) [[unlikely]] {
        seeking_ = kSought;
      }
      if (seeking_ != 0) [[unlikely]] {
        --seeking_;
        const std::uint64_t better = search(hash());
        if (better != 0 && agreement(better) > agreement(distance_)) {
          distance_ = better;
          seeking_ = 0;
        }
      }
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
