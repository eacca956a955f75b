#include "allocators/stalloc.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "allocators/packing.hpp"
#include "allocators/policy_settings.hpp"
#include "allocators/segment_rules.hpp"

namespace peakcast {
namespace {

using namespace literals;

using NativeLarge = CoalescingHeap<BestFit, LargeSegments>;

class StallocHeap final : public TwoPools<NativeLarge> {
 public:
  StallocHeap(Upstream& upstream, StreamId stream, std::int64_t profile)
      : TwoPools{upstream, stream}, upstream_{upstream}, stream_{stream}, profile_{profile} {}

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const Bytes need = rounded(size);
    const std::size_t place = place_++;
    std::optional<Grant> grant = planned(place, need);
    if (!grant) {
      grant = TwoPools::take(size);
      if (!grant) {
        --place_;  // the request will be tried again
        return std::nullopt;
      }
      grant->block <<= 1U;
    }
    if (watches_births()) {
      if (birth_.size() <= grant->block) {
        birth_.resize(grant->block + 1);
      }
      birth_[grant->block] = {iteration_, place};
      if (watched_.size() <= place) {
        watched_.resize(place + 1);
      }
      watched_[place].size = std::max(watched_[place].size, need);
      watched_[place].lower = moment_;
    }
    ++moment_;
    return grant;
  }

  void give(std::uint32_t block) override {
    if (block < birth_.size() && birth_[block].iteration >= 0) {
      // Born in this iteration, or in the one before it (a gradient); older ones are no concern.
      const Birth birth = std::exchange(birth_[block], Birth{});
      if (birth.iteration + 1 >= iteration_) {
        Watched& watched = watched_[birth.place];
        watched.upper =
            std::max(watched.upper, birth.iteration == iteration_ ? moment_ : period_ + moment_);
        ++watched.deaths;
      }
    }
    ++moment_;
    if ((block & 1U) == 0) {
      TwoPools::give(block >> 1U);
      return;
    }
    const std::uint32_t number = block >> 1U;
    in_arena_.erase(plan_[number].offset);
  }

  bool trim() override {
    const bool any = TwoPools::trim();
    if (arena_ && in_arena_.empty()) {  // memory is short: the plan is given up
      upstream_.release(*arena_, arena_size_, stream_);
      arena_.reset();
      plan_.clear();
      return true;
    }
    return any;
  }

  void begin_iteration(std::int64_t index) override {
    if (index == profile_ + 2) {
      make_plan();
    }
    period_ = moment_;
    iteration_ = index;
    place_ = 0;
    moment_ = 0;
  }

  [[nodiscard]] Bytes largest_free() const override { return TwoPools::largest_free(); }

  void append_to(HeapView& view) const override {
    TwoPools::append_to(view);
    if (!arena_) {
      return;
    }
    SegmentView segment{.address = *arena_, .size = arena_size_, .stream = stream_};
    Bytes at{};
    const auto gap = [&](Bytes to) {
      if (at < to) {
        segment.blocks.push_back({.address = *arena_ + at, .size = to - at, .stream = stream_});
      }
    };
    for (const auto& [offset, end] : in_arena_) {
      gap(offset);
      segment.blocks.push_back({.address = *arena_ + offset,
                                .size = end - offset,
                                .state = BlockState::allocated,
                                .stream = stream_});
      at = end;
    }
    gap(arena_size_);
    view.segments.push_back(std::move(segment));
  }

 private:
  struct Planned {
    Bytes size{};
    Bytes offset{};
  };
  struct Watched {
    Bytes size{};
    std::int64_t lower{};
    std::int64_t upper{};
    std::int64_t deaths{};
  };
  struct Birth {
    std::int64_t iteration{-1};
    std::size_t place{};
  };

  [[nodiscard]] bool watches_births() const { return iteration_ >= 1 && iteration_ <= profile_; }

  /// Blocks of the plan have odd numbers: their place, shifted.
  std::optional<Grant> planned(std::size_t place, Bytes need) {
    if (!arena_ || place >= plan_.size() || plan_[place].size < need) {
      return std::nullopt;
    }
    const Bytes offset = plan_[place].offset;
    const Bytes end = offset + need;
    const auto after = in_arena_.lower_bound(offset);
    if ((after != in_arena_.end() && after->first < end) ||
        (after != in_arena_.begin() && std::prev(after)->second > offset)) {
      return std::nullopt;
    }
    in_arena_.emplace_hint(after, offset, end);
    return Grant{*arena_ + offset, need, static_cast<std::uint32_t>(place) << 1U | 1U};
  }

  /// Training goes round, and so does the plan: gradients live from one iteration's backward pass
  /// to the next one's start. Time is cut where the fewest bytes of such buffers live; those that
  /// live there all the same are not planned. With several profiled iterations a place's life is
  /// from its latest birth to its latest death; the room is checked at run time all the same.
  void make_plan() {
    const std::int64_t cut = best_cut();
    std::vector<Lifetime> lifetimes;
    std::vector<std::size_t> places;
    for (std::size_t place = 0; place < watched_.size(); ++place) {
      const Watched& watched = watched_[place];
      if (!plannable(watched)) {
        continue;
      }
      const std::int64_t turn = watched.lower < cut ? period_ : 0;
      if (watched.upper + turn <= cut + period_) {
        lifetimes.push_back({watched.lower + turn, watched.upper + turn, watched.size});
        places.push_back(place);
      }
    }
    birth_.clear();
    if (lifetimes.empty()) {
      return;
    }
    // A plan is made while training waits: the greedy orders, no search.
    const Packing packing =
        pack(lifetimes, PackBudget{.heuristic_steps = 20'000'000, .search_steps = 0});
    TwoPools::trim();
    arena_size_ = round_up(packing.capacity, 2_MiB);
    arena_ = upstream_.acquire(arena_size_, stream_);
    if (!arena_) {
      return;
    }
    plan_.assign(watched_.size(), Planned{});
    for (std::size_t i = 0; i < places.size(); ++i) {
      plan_[places[i]] = {lifetimes[i].size, packing.offsets[i]};
    }
    watched_.clear();
  }

  [[nodiscard]] bool plannable(const Watched& watched) const {
    return watched.deaths == profile_ && watched.lower < watched.upper &&
           watched.upper <= watched.lower + period_;
  }
  /// The moment in [0, period) that the fewest bytes cross; the earliest of equals.
  [[nodiscard]] std::int64_t best_cut() const {
    std::vector<std::int64_t> change(static_cast<std::size_t>(2 * period_) + 2);
    for (const Watched& watched : watched_) {
      if (plannable(watched)) {  // crossed: the moments strictly inside its life
        change[static_cast<std::size_t>(watched.lower) + 1] += watched.size.count();
        change[static_cast<std::size_t>(std::min(watched.upper, 2 * period_))] -=
            watched.size.count();
      }
    }
    for (std::size_t i = 1; i < change.size(); ++i) {
      change[i] += change[i - 1];
    }
    std::int64_t best{};
    std::int64_t fewest = std::numeric_limits<std::int64_t>::max();
    for (std::int64_t moment = 0; moment < period_; ++moment) {
      const std::int64_t bytes = change[static_cast<std::size_t>(moment)] +
                                 change[static_cast<std::size_t>(moment + period_)];
      if (bytes < fewest) {
        fewest = bytes;
        best = moment;
      }
    }
    return best;
  }

  Upstream& upstream_;
  StreamId stream_;
  std::int64_t profile_;
  std::int64_t iteration_{-1};
  std::size_t place_{};
  std::int64_t moment_{};           ///< requests and frees of this iteration
  std::int64_t period_{};           ///< of the one before
  std::vector<Watched> watched_{};  ///< by place in the iteration
  std::vector<Birth> birth_{};      ///< by block number
  std::vector<Planned> plan_{};     ///< by place; size 0: not planned
  std::optional<Address> arena_{};
  Bytes arena_size_{};
  std::map<Bytes, Bytes> in_arena_{};  ///< offset -> end
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_stalloc(Device& device, Streams& streams,
                                                  const PolicyOptions& options) {
  std::int64_t profile = 1;
  const std::array settings{PolicySetting{.key = "profile", .count = &profile, .minimum = 1}};
  if (const auto read = read_settings("stalloc", options, settings); !read) {
    return read.error();
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "stalloc", .limit = options.limit},
      [profile](Upstream& upstream, StreamId stream) {
        return std::make_unique<StallocHeap>(upstream, stream, profile);
      })};
}

}  // namespace peakcast
