#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace peakcast::near_floor {

/// Where a block was put. An address of 0 is nowhere.
struct Place {
  std::uint64_t address{};
  std::uint32_t where{};  ///< the extent, or the view that the address lies in
  bool in_view{};
};

/// Finds out how far back the program did what it does now, and where its blocks were then.
/// Training repeats itself: the sizes that it asks for come again in the same order, and between
/// them it drops the same. Of the places in the past from which the last requests look the same,
/// the one is followed with which most of them agree, in size and in what was dropped (of a step
/// that accumulates gradients over parts: the same part of the step before), for as long as it
/// tells the next size.
/// next() is O(1) while it does, else O(kContext + kCandidates * kLongest).
class Repeats {
 public:
  Repeats();

  /// The program asks for `units` of 512 bytes while `live` of them live.
  void next(std::uint32_t units, std::uint32_t live);
  /// Whether the present request is known from a period ago, when as much lived as now, give or
  /// take `drift` units: so that what fitted then fits now, and the program is at the same point
  /// of its work and not just in another of its equal layers.
  [[nodiscard]] bool steady(std::uint32_t drift) const {
    if (distance_ == 0) {
      return false;
    }
    const std::uint32_t now = at(count_ - 1).live;
    const std::uint32_t then = at(count_ - 1 - distance_).live;
    return (now > then ? now - then : then - now) <= drift;
  }
  /// Where the same request was put `periods` >= 1 periods ago; null: not known.
  [[nodiscard]] const Place* earlier(std::uint64_t periods) const {
    const std::uint64_t back = distance_ * periods;
    if (back == 0 || back >= std::min(count_, kKept)) {
      return nullptr;
    }
    const Request& request = at(count_ - 1 - back);
    return request.units == at(count_ - 1).units && request.place.address != 0 ? &request.place
                                                                               : nullptr;
  }
  /// Calls `visit(place, units)` for the requests that came, a period ago, while the present one
  /// lived; for kMostUpcoming at most. Precondition: a period is known.
  template <class Visit>
  void upcoming(Visit visit) const {
    const std::uint64_t begin = count_ - 1 - distance_;
    const std::uint32_t dropped = at(begin).dropped;
    const std::uint64_t lived =
        dropped == 0 ? distance_ : dropped - static_cast<std::uint32_t>(begin);
    const std::uint64_t end = begin + std::min({lived, distance_, kMostUpcoming});
    for (std::uint64_t i = begin + 1; i < end; ++i) {
      if (at(i).place.address != 0) {
        visit(at(i).place, at(i).units);
      }
    }
  }
  /// The present request was put at `place`. Its number, for dropped().
  std::uint32_t put(const Place& place) {
    ring_[(count_ - 1) & kMask].place = place;
    return static_cast<std::uint32_t>(count_ - 1);
  }
  /// What request `number` got, of `units`, was dropped.
  void dropped(std::uint32_t number, std::uint32_t units) {
    drops_ += units;
    if (static_cast<std::uint32_t>(count_) - number <= kKept) {
      ring_[number & kMask].dropped = static_cast<std::uint32_t>(count_);
    }
  }

 private:
  struct Request {
    Place place{};
    std::uint32_t units{};
    std::uint32_t drops{};    ///< units dropped since the request before
    std::uint32_t live{};     ///< units that lived then
    std::uint32_t dropped{};  ///< the request before which its block was dropped; 0: not yet
  };
  static constexpr std::uint64_t kKept = std::uint64_t{1} << 18;  ///< requests
  static constexpr std::uint64_t kMask = kKept - 1;
  static constexpr std::uint64_t kFirstKept = 4096;     ///< memory for so many at first
  static constexpr std::uint64_t kContext = 16;         ///< requests that must look the same
  static constexpr std::uint64_t kLongest = 4096;       ///< how far back agreement is counted
  static constexpr int kCandidates = 8;                 ///< places in the past that are compared
  static constexpr std::uint64_t kNoted = 8;            ///< one in so many, while it repeats
  static constexpr std::uint32_t kSought = 32;          ///< requests after drops that differ
  static constexpr std::uint64_t kMostUpcoming = 8192;  ///< a bound on the time it takes

  [[nodiscard]] const Request& at(std::uint64_t i) const { return ring_[i & kMask]; }
  [[nodiscard]] std::uint32_t hash() const;
  void note(std::uint32_t slot);
  /// How many of the last requests agree with those `distance` before: in size, and in drops too.
  struct Agreement {
    std::uint64_t exact{};
    std::uint64_t sizes{};
    friend auto operator<=>(const Agreement&, const Agreement&) = default;
  };
  [[nodiscard]] Agreement agreement(std::uint64_t distance) const;
  [[nodiscard]] std::uint64_t search(std::uint32_t slot) const;

  std::vector<Request> ring_;
  std::uint64_t count_{};
  std::uint64_t distance_{};             ///< the period, in requests; 0: none is known
  std::uint32_t drops_{};                ///< since the last request
  std::uint32_t seeking_{};              ///< requests for which a better period is looked for
  std::vector<std::uint32_t> latest_;    ///< by hash: 1 + the last request that ended this context
  std::vector<std::uint32_t> previous_;  ///< by request: 1 + the one before with its hash
};

}  // namespace peakcast::near_floor
