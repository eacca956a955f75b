#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace peakcast::near_floor {

/// Where a block was put.
struct Place {
  std::uint64_t address{};
  std::uint32_t units{};  ///< of 512 bytes
  std::uint32_t where{};  ///< the extent, or the view that the address lies in
  bool in_view{};
};

/// Finds out how far back the program did what it does now, and where its blocks were then.
/// Training repeats itself: the sizes that it asks for come again in the same order. Of the places
/// in the past from which the last requests look the same, the one is followed with which the most
/// requests agree (of a step that accumulates gradients over parts, the same part of the last
/// step), for as long as it tells the next size.
/// next() is O(1) while it does, else O(kContext + kCandidates * kLongest).
class Repeats {
 public:
  Repeats();

  /// The program asks for `units`. Afterwards earlier() tells about it.
  void next(std::uint32_t units);
  /// Where the same request was put `periods` >= 1 periods ago; null: not known, or before
  /// forget_places().
  [[nodiscard]] const Place* earlier(std::uint64_t periods) const {
    const std::uint64_t back = distance_ * periods;
    if (back == 0 || back >= std::min(count_ - places_from_, kKept)) {
      return nullptr;
    }
    const Place& place = ring_[(count_ - 1 - back) & kMask];
    return place.units == ring_[(count_ - 1) & kMask].units && place.address != 0 ? &place
                                                                                  : nullptr;
  }
  /// The present request was put at `place`.
  void put(const Place& place) { ring_[(count_ - 1) & kMask] = place; }
  /// Places up to now are no longer worth repeating.
  void forget_places() { places_from_ = count_ == 0 ? 0 : count_ - 1; }
  [[nodiscard]] bool repeating() const { return distance_ != 0; }
  [[nodiscard]] std::uint64_t distance() const { return distance_; }
  [[nodiscard]] std::uint64_t count() const { return count_; }

 private:
  static constexpr std::uint64_t kKept = std::uint64_t{1} << 18;  ///< requests
  static constexpr std::uint64_t kMask = kKept - 1;
  static constexpr std::uint64_t kContext = 16;    ///< requests that must look the same
  static constexpr std::uint64_t kLongest = 4096;  ///< how far back agreement is counted
  static constexpr int kCandidates = 8;            ///< places in the past that are compared
  static constexpr std::uint64_t kNoted = 8;       ///< while it repeats, each so many-th is noted

  [[nodiscard]] std::uint32_t hash() const;
  void note(std::uint32_t slot);
  [[nodiscard]] std::uint64_t search(std::uint32_t slot) const;
  [[nodiscard]] std::uint32_t units_at(std::uint64_t i) const { return ring_[i & kMask].units; }

  std::vector<Place> ring_;
  std::uint64_t count_{};
  std::uint64_t distance_{};
  std::uint64_t places_from_{};
  std::vector<std::uint32_t> latest_;    ///< by hash: 1 + the last request that ended this context
  std::vector<std::uint32_t> previous_;  ///< by request: 1 + the one before with its hash
};

}  // namespace peakcast::near_floor
