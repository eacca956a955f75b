#include "sim/trace/alignment.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <unordered_map>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

using Position = std::int64_t;

/// Half-open parts of both sequences.
struct Part {
  Position a_begin{};
  Position a_end{};
  Position b_begin{};
  Position b_end{};
};

class Aligner {
 public:
  Aligner(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b, std::size_t effort)
      : a_{a}, b_{b}, effort_{static_cast<Position>(effort)} {}

  std::vector<AlignedPair> run() {
    const Part all{0, static_cast<Position>(a_.size()), 0, static_cast<Position>(b_.size())};
    forward_.resize(a_.size() + b_.size() + 3);
    backward_.resize(a_.size() + b_.size() + 3);
    // Long runs first: the longer, the surer. A single element is often unique by chance only.
    std::vector<Part> parts{all};
    for (const Position run : {64, 16}) {
      std::vector<Part> finer;
      for (const Part& part : parts) {
        split_at_anchors(part, run, finer);
      }
      parts = std::move(finer);
    }
    for (const Part& part : parts) {
      divide(part);
    }
    std::sort(pairs_.begin(), pairs_.end(),
              [](const AlignedPair& x, const AlignedPair& y) { return x.a < y.a; });
    return std::move(pairs_);
  }

 private:
  [[nodiscard]] bool equal(Position x, Position y) const {
    return a_[static_cast<std::size_t>(x)] == b_[static_cast<std::size_t>(y)];
  }
  void pair(Position x, Position y) {
    pairs_.push_back({static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y)});
  }

  /// Pairs what is equal at both ends and takes it off.
  void trim(Part& part) {
    while (part.a_begin < part.a_end && part.b_begin < part.b_end &&
           equal(part.a_begin, part.b_begin)) {
      pair(part.a_begin++, part.b_begin++);
    }
    while (part.a_begin < part.a_end && part.b_begin < part.b_end &&
           equal(part.a_end - 1, part.b_end - 1)) {
      pair(--part.a_end, --part.b_end);
    }
  }

  /// Where each run of `length` elements begins, if it does so only once; by the run's hash. A
  /// collision of hashes is caught when the anchor's elements are compared.
  using Runs = std::unordered_map<std::uint64_t, Position>;
  static Runs unique_runs(std::span<const std::uint64_t> of, Position begin, Position end,
                          Position length) {
    Runs runs;  // never iterated
    constexpr Position kTwice = -1;
    for_each_run(of, begin, end, length, [&](std::uint64_t hash, Position at) {
      const auto [known, fresh] = runs.try_emplace(hash, at);
      if (!fresh) {
        known->second = kTwice;
      }
    });
    return runs;
  }
  template <class Take>
  static void for_each_run(std::span<const std::uint64_t> of, Position begin, Position end,
                           Position length, Take take) {
    // A polynomial hash that rolls along; its base is odd, arithmetic is modulo 2^64.
    constexpr std::uint64_t kBase = 0x9e3779b97f4a7c15ULL;
    std::uint64_t top = 1;
    for (Position i = 1; i < length; ++i) {
      top *= kBase;
    }
    std::uint64_t hash = 0;
    for (Position i = begin; i < end; ++i) {
      if (i - begin >= length) {
        hash -= top * of[static_cast<std::size_t>(i - length)];
      }
      hash = hash * kBase + of[static_cast<std::size_t>(i)];
      if (i - begin + 1 >= length) {
        take(hash, i - length + 1);
      }
    }
  }

  void split_at_anchors(Part part, Position run, std::vector<Part>& out) {
    trim(part);
    if (part.a_end - part.a_begin < run || part.b_end - part.b_begin < run) {
      out.push_back(part);
      return;
    }
    const Runs in_b = unique_runs(b_, part.b_begin, part.b_end, run);
    const Runs in_a = unique_runs(a_, part.a_begin, part.a_end, run);
    // Anchors in the order of a; then the longest chain that ascends in b.
    std::vector<AlignedPair> anchors;
    for_each_run(a_, part.a_begin, part.a_end, run, [&](std::uint64_t hash, Position at) {
      const auto other = in_b.find(hash);
      if (in_a.at(hash) < 0 || other == in_b.end() || other->second < 0) {
        return;
      }
      for (Position i = 0; i < run; ++i) {
        if (!equal(at + i, other->second + i)) {
          return;
        }
      }
      anchors.push_back(
          {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(other->second)});
    });
    Position a_done = part.a_begin;
    Position b_done = part.b_begin;
    for (const AlignedPair& anchor : longest_chain(anchors)) {
      if (anchor.a < a_done || anchor.b < b_done) {
        continue;  // inside what the anchor before it was extended to
      }
      out.push_back({a_done, anchor.a, b_done, anchor.b});
      a_done = anchor.a;
      b_done = anchor.b;
      while (a_done < part.a_end && b_done < part.b_end && equal(a_done, b_done)) {
        pair(a_done++, b_done++);
      }
    }
    out.push_back({a_done, part.a_end, b_done, part.b_end});
  }

  static std::vector<AlignedPair> longest_chain(const std::vector<AlignedPair>& anchors) {
    constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
    std::vector<std::size_t> tails;  // by chain length - 1: the anchor that ends it lowest in b
    std::vector<std::size_t> before(anchors.size(), kNone);
    for (std::size_t i = 0; i < anchors.size(); ++i) {
      const auto at =
          std::lower_bound(tails.begin(), tails.end(), anchors[i].b,
                           [&](std::size_t tail, std::uint32_t b) { return anchors[tail].b < b; });
      if (at != tails.begin()) {
        before[i] = *(at - 1);
      }
      if (at == tails.end()) {
        tails.push_back(i);
      } else {
        *at = i;
      }
    }
    std::vector<AlignedPair> chain;
    for (std::size_t i = tails.empty() ? kNone : tails.back(); i != kNone; i = before[i]) {
      chain.push_back(anchors[i]);
    }
    std::reverse(chain.begin(), chain.end());
    return chain;
  }

  void divide(const Part& whole) {
    std::vector<Part> open{whole};
    while (!open.empty()) {
      Part part = open.back();
      open.pop_back();
      trim(part);
      if (part.a_begin == part.a_end || part.b_begin == part.b_end) {
        continue;
      }
      const auto [x, y] = middle(part);
      const bool corner =
          (x == part.a_begin && y == part.b_begin) || (x == part.a_end && y == part.b_end);
      if (corner) {
        continue;  // nothing in common could be reached
      }
      open.push_back({part.a_begin, x, part.b_begin, y});
      open.push_back({x, part.a_end, y, part.b_end});
    }
  }

  // Furthest positions in a, by diagonal x - y; shifted so that every diagonal and one beyond on
  // either side has a place.
  [[nodiscard]] Position& forward(Position diagonal) {
    return forward_[static_cast<std::size_t>(diagonal + static_cast<Position>(b_.size()) + 1)];
  }
  [[nodiscard]] Position& backward(Position diagonal) {
    return backward_[static_cast<std::size_t>(diagonal + static_cast<Position>(b_.size()) + 1)];
  }

  struct Diagonals {
    Position low{};
    Position high{};
  };

  /// A point on a shortest edit path of the part, where searches from both ends meet; or the best
  /// point that either reached when the effort is spent.
  std::pair<Position, Position> middle(const Part& part) {
    const Position lowest = part.a_begin - part.b_end;
    const Position highest = part.a_end - part.b_begin;
    const Position from = part.a_begin - part.b_begin;
    const Position to = part.a_end - part.b_end;
    const bool odd = ((from - to) & 1) != 0;
    constexpr Position kFar = std::numeric_limits<Position>::max() / 2;
    Diagonals down{from, from};
    Diagonals up{to, to};
    forward(from) = part.a_begin;
    backward(to) = part.a_end;
    for (Position edits = 1;; ++edits) {
      widen(down, lowest, highest, [&](Position d) { forward(d) = -kFar; });
      for (Position d = down.high; d >= down.low; d -= 2) {
        Position x = std::max(forward(d - 1) + 1, forward(d + 1));
        while (x < part.a_end && x - d < part.b_end && equal(x, x - d)) {
          ++x;
        }
        forward(d) = x;
        if (odd && up.low <= d && d <= up.high && backward(d) <= x) {
          return {x, x - d};
        }
      }
      widen(up, lowest, highest, [&](Position d) { backward(d) = kFar; });
      for (Position d = up.high; d >= up.low; d -= 2) {
        Position x = std::min(backward(d - 1), backward(d + 1) - 1);
        while (part.a_begin < x && part.b_begin < x - d && equal(x - 1, x - d - 1)) {
          --x;
        }
        backward(d) = x;
        if (!odd && down.low <= d && d <= down.high && x <= forward(d)) {
          return {x, x - d};
        }
      }
      if (edits >= effort_) {
        return furthest(part, down, up);
      }
    }
  }

  /// One diagonal more on either side, or one less where the part ends.
  template <class Clear>
  static void widen(Diagonals& range, Position lowest, Position highest, Clear clear) {
    if (range.low > lowest) {
      --range.low;
      clear(range.low - 1);
    } else {
      ++range.low;
    }
    if (range.high < highest) {
      ++range.high;
      clear(range.high + 1);
    } else {
      --range.high;
    }
  }

  std::pair<Position, Position> furthest(const Part& part, const Diagonals& down,
                                         const Diagonals& up) {
    std::pair<Position, Position> best{part.a_begin, part.b_begin};
    Position best_covered = 0;
    // Of equals the one nearest to the straight line from corner to corner: the others eat up one
    // side and leave the rest nothing to pair with.
    const Position centre = (part.a_begin - part.b_begin + part.a_end - part.b_end) / 2;
    Position best_aside = 0;
    const auto offer = [&](Position x, Position y, Position covered) {
      const Position aside = std::abs(x - y - centre);
      if (covered > best_covered || (covered == best_covered && aside < best_aside)) {
        best_covered = covered;
        best_aside = aside;
        best = {x, y};
      }
    };
    for (Position d = down.high; d >= down.low; d -= 2) {
      const Position x = std::min({forward(d), part.a_end, part.b_end + d});
      offer(x, x - d, x - part.a_begin + (x - d) - part.b_begin);
    }
    for (Position d = up.high; d >= up.low; d -= 2) {
      const Position x = std::max({backward(d), part.a_begin, part.b_begin + d});
      offer(x, x - d, part.a_end - x + part.b_end - (x - d));
    }
    return best;
  }

  std::span<const std::uint64_t> a_;
  std::span<const std::uint64_t> b_;
  Position effort_;
  std::vector<Position> forward_{};
  std::vector<Position> backward_{};
  std::vector<AlignedPair> pairs_{};
};

}  // namespace

std::vector<AlignedPair> align(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b,
                               std::size_t effort) {
  check(a.size() < 0x80000000U && b.size() < 0x80000000U, "sequences of up to 2^31 elements");
  return Aligner{a, b, std::max<std::size_t>(effort, 1)}.run();
}

}  // namespace peakcast
