#include "allocators/packing.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

using Index = std::int32_t;
using Height = std::int64_t;
constexpr Height kNowhere = -1;

/// Lifetimes with time made dense: section s is the s-th stretch between two starts, so that what
/// is alive in one section is alive together. Kept as arrays: the search reads little else.
struct Instance {
  Index count{};
  Index sections{};
  std::vector<Index> first{};  ///< per buffer: its sections are [first, last)
  std::vector<Index> last{};
  std::vector<Height> size{};
  std::vector<std::int64_t> width{};  ///< in the caller's time
};

/// Saturates: times come from a file.
Height product(Height a, Height b) {
  Height made{};
  return __builtin_mul_overflow(a, b, &made) ? std::numeric_limits<Height>::max() : made;
}

/// Only starts cut time: at an end without a start behind it the live set merely shrinks.
Instance instance_of(std::span<const Lifetime> lifetimes) {
  Instance made;
  made.count = static_cast<Index>(lifetimes.size());
  std::vector<std::int64_t> starts;
  starts.reserve(lifetimes.size());
  for (const Lifetime& life : lifetimes) {
    check(life.lower < life.upper && life.size > Bytes{}, "a lifetime is empty");
    starts.push_back(life.lower);
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  made.sections = static_cast<Index>(starts.size());
  made.first.reserve(lifetimes.size());
  made.last.reserve(lifetimes.size());
  made.size.reserve(lifetimes.size());
  const auto section_of = [&](std::int64_t time) {
    return static_cast<Index>(std::lower_bound(starts.begin(), starts.end(), time) -
                              starts.begin());
  };
  for (const Lifetime& life : lifetimes) {
    made.first.push_back(section_of(life.lower));
    made.last.push_back(section_of(life.upper));
    made.size.push_back(life.size.count());
    made.width.push_back(life.duration > 0 ? life.duration : life.upper - life.lower);
  }
  return made;
}

std::vector<Height> section_sums(const Instance& instance) {
  std::vector<Height> sums(static_cast<std::size_t>(instance.sections) + 1);
  for (std::size_t b = 0; b < instance.size.size(); ++b) {
    sums[static_cast<std::size_t>(instance.first[b])] += instance.size[b];
    sums[static_cast<std::size_t>(instance.last[b])] -= instance.size[b];
  }
  std::partial_sum(sums.begin(), sums.end(), sums.begin());
  sums.pop_back();
  return sums;
}

struct Layout {
  std::vector<Height> offsets{};
  Height capacity{std::numeric_limits<Height>::max()};
};

Height top_of(const Instance& instance, const std::vector<Height>& offsets) {
  Height top{};
  for (std::size_t b = 0; b < offsets.size(); ++b) {
    top = std::max(top, offsets[b] + instance.size[b]);
  }
  return top;
}

void keep_better(Layout& best, const Instance& instance, std::vector<Height> offsets) {
  const Height top = top_of(instance, offsets);
  if (top < best.capacity) {
    best.capacity = top;
    best.offsets = std::move(offsets);
  }
}

/// Range maximum with range assignment, where an assignment is never below what it covers.
class Skyline {
 public:
  explicit Skyline(Index sections) {
    while (leaves_ < static_cast<std::size_t>(sections)) {
      leaves_ *= 2;
    }
    highest_.resize(2 * leaves_);
    cover_.resize(2 * leaves_);
  }
  [[nodiscard]] Height highest(Index first, Index last) const {
    return query(1, 0, leaves_, static_cast<std::size_t>(first), static_cast<std::size_t>(last));
  }
  void raise(Index first, Index last, Height to) {
    update(1, 0, leaves_, static_cast<std::size_t>(first), static_cast<std::size_t>(last), to);
  }

 private:
  [[nodiscard]] Height query(std::size_t node, std::size_t from, std::size_t to, std::size_t first,
                             std::size_t last) const {
    if (first >= to || last <= from) {
      return 0;
    }
    if (first <= from && to <= last) {
      return highest_[node];
    }
    const std::size_t middle = (from + to) / 2;
    return std::max(cover_[node], std::max(query(2 * node, from, middle, first, last),
                                           query(2 * node + 1, middle, to, first, last)));
  }
  void update(std::size_t node, std::size_t from, std::size_t to, std::size_t first,
              std::size_t last, Height height) {
    if (first >= to || last <= from) {
      return;
    }
    highest_[node] = std::max(highest_[node], height);
    if (first <= from && to <= last) {
      cover_[node] = std::max(cover_[node], height);
      return;
    }
    const std::size_t middle = (from + to) / 2;
    update(2 * node, from, middle, first, last, height);
    update(2 * node + 1, middle, to, first, last, height);
  }

  std::size_t leaves_{1};
  std::vector<Height> highest_{};
  std::vector<Height> cover_{};
};

/// Each on top of all that it meets, in the given order. Longest life first packs nested lives (a
/// forward and a backward pass) without loss. O(n log n).
std::vector<Height> stack_in_order(const Instance& instance, const std::vector<Index>& order) {
  Skyline skyline{instance.sections};
  std::vector<Height> offsets(instance.size.size(), kNowhere);
  for (const Index buffer : order) {
    const auto b = static_cast<std::size_t>(buffer);
    offsets[b] = skyline.highest(instance.first[b], instance.last[b]);
    skyline.raise(instance.first[b], instance.last[b], offsets[b] + instance.size[b]);
  }
  return offsets;
}

/// What an allocator could do as time goes by in an endless arena: lowest fit or best fit.
std::vector<Height> place_by_time(const Instance& instance, const std::vector<Index>& by_start,
                                  bool best_fit) {
  std::vector<Index> by_end(by_start);
  std::sort(by_end.begin(), by_end.end(), [&](Index a, Index b) {  // by end, then by index
    const auto end_a = instance.last[static_cast<std::size_t>(a)];
    const auto end_b = instance.last[static_cast<std::size_t>(b)];
    return end_a != end_b ? end_a < end_b : a < b;
  });
  std::map<Height, Height> runs{{0, std::numeric_limits<Height>::max() / 2}};  // start -> length
  std::map<std::pair<Height, Height>, bool> by_length{{{runs.begin()->second, 0}, true}};
  const auto erase = [&](std::map<Height, Height>::iterator run) {
    by_length.erase({run->second, run->first});
    runs.erase(run);
  };
  const auto insert = [&](Height start, Height length) {
    runs.emplace(start, length);
    by_length.emplace(std::pair{length, start}, true);
  };
  std::vector<Height> offsets(instance.size.size(), kNowhere);
  std::size_t ended{};
  for (const Index buffer : by_start) {
    const auto b = static_cast<std::size_t>(buffer);
    while (ended < by_end.size() &&
           instance.last[static_cast<std::size_t>(by_end[ended])] <= instance.first[b]) {
      const auto e = static_cast<std::size_t>(by_end[ended]);
      ++ended;
      Height start = offsets[e];
      Height length = instance.size[e];
      auto after = runs.lower_bound(start);
      if (after != runs.end() && after->first == start + length) {
        length += after->second;
        erase(after);
      }
      auto before = runs.lower_bound(start);
      if (before != runs.begin()) {
        --before;
        if (before->first + before->second == start) {
          start = before->first;
          length += before->second;
          erase(before);
        }
      }
      insert(start, length);
    }
    auto run = runs.begin();
    if (best_fit) {
      run = runs.find(by_length.lower_bound({instance.size[b], 0})->first.second);
    } else {
      while (run->second < instance.size[b]) {
        ++run;
      }
    }
    const auto [start, length] = *run;
    erase(run);
    offsets[b] = start;
    if (length > instance.size[b]) {
      insert(start + instance.size[b], length - instance.size[b]);
    }
  }
  return offsets;
}

/// Who shares time with whom, answered from snapshots of the live set at every kStride-th start.
class Neighbours {
 public:
  Neighbours(const Instance& instance, const std::vector<Index>& by_start)
      : instance_{instance}, by_start_{by_start} {
    std::vector<Index> live;
    for (std::size_t i = 0; i < by_start.size(); ++i) {
      if (i % kStride == 0) {
        const Index now = instance.first[static_cast<std::size_t>(by_start[i])];
        std::erase_if(live,
                      [&](Index b) { return instance.last[static_cast<std::size_t>(b)] <= now; });
        snapshots_.push_back(live);
      }
      live.push_back(by_start[i]);
    }
    place_.resize(by_start.size());
    for (std::size_t i = 0; i < by_start.size(); ++i) {
      place_[static_cast<std::size_t>(by_start[i])] = i;
    }
  }
  /// Calls `visit` for every other buffer that is alive with `buffer`; returns how many were seen.
  template <class Visit>
  // NOLINTNEXTLINE(modernize-use-nodiscard): mostly called for what it visits
  std::int64_t each(Index buffer, Visit visit) const {
    const auto b = static_cast<std::size_t>(buffer);
    const Index first = instance_.first[b];
    const Index last = instance_.last[b];
    const std::size_t snapshot = place_[b] / kStride;
    std::int64_t seen{};
    for (const Index other : snapshots_[snapshot]) {
      ++seen;
      if (instance_.last[static_cast<std::size_t>(other)] > first) {
        visit(other);
      }
    }
    for (std::size_t i = snapshot * kStride; i < by_start_.size(); ++i) {
      const Index other = by_start_[i];
      const auto o = static_cast<std::size_t>(other);
      ++seen;
      if (instance_.first[o] >= last) {
        break;
      }
      if (other != buffer && instance_.last[o] > first) {
        visit(other);
      }
    }
    return seen;
  }

 private:
  static constexpr std::size_t kStride = 32;
  const Instance& instance_;
  const std::vector<Index>& by_start_;
  std::vector<std::vector<Index>> snapshots_{};
  std::vector<std::size_t> place_{};
};

/// Each into the lowest gap that holds it among those placed before. Nothing when the steps end.
std::optional<std::vector<Height>> fill_gaps_in_order(const Instance& instance,
                                                      const Neighbours& neighbours,
                                                      const std::vector<Index>& order,
                                                      std::int64_t& steps_left) {
  std::vector<Height> offsets(instance.size.size(), kNowhere);
  std::vector<std::pair<Height, Height>> taken;
  for (const Index buffer : order) {
    const auto b = static_cast<std::size_t>(buffer);
    taken.clear();
    steps_left -= neighbours.each(buffer, [&](Index other) {
      const auto o = static_cast<std::size_t>(other);
      if (offsets[o] != kNowhere) {
        taken.emplace_back(offsets[o], offsets[o] + instance.size[o]);
      }
    });
    steps_left -= 4 * static_cast<std::int64_t>(taken.size());  // the sort
    if (steps_left < 0) {
      return std::nullopt;
    }
    std::sort(taken.begin(), taken.end());
    Height at{};
    for (const auto& [start, end] : taken) {
      if (start - at >= instance.size[b]) {
        break;
      }
      at = std::max(at, end);
    }
    offsets[b] = at;
  }
  return offsets;
}

/// Depth-first search for a packing of at most `capacity`, see pack().
class Search {
 public:
  enum class Outcome : std::uint8_t { found, none, out_of_steps };
  enum class Preorder : std::uint8_t { total_area_width, total_width_area, width_area_total };
  static constexpr std::array kPreorders{Preorder::width_area_total, Preorder::total_area_width,
                                         Preorder::total_width_area};

  explicit Search(const Instance& instance)
      : instance_{instance},
        members_(static_cast<std::size_t>(instance.sections)),
        overlaps_(instance.size.size()),
        twin_(instance.size.size(), -1),
        sums_{section_sums(instance)},
        result_(instance.size.size(), kNowhere) {
    for (Index b = 0; b < instance.count; ++b) {
      for (Index s = first(b); s < last(b); ++s) {
        for (const Index other : members_[at(s)]) {
          if (std::max(first(b), first(other)) == s) {
            overlaps_[at(b)].push_back(other);
            overlaps_[at(other)].push_back(b);
          }
        }
        members_[at(s)].push_back(b);
      }
    }
    for (Index b = 0; b < instance.count; ++b) {
      for (Index other = b - 1; other >= 0 && twin_[at(b)] < 0; --other) {
        if (first(b) == first(other) && last(b) == last(other) && size(b) == size(other)) {
          twin_[at(b)] = other;
        }
      }
    }
  }

  Outcome run(Height capacity, Preorder preorder, std::int64_t step_limit) {
    capacity_ = capacity;
    preorder_ = preorder;
    steps_ = 0;
    step_limit_ = step_limit;
    depth_ = 0;
    offset_.assign(at(instance_.count), kNowhere);
    low_.assign(at(instance_.count), 0);
    degree_.resize(at(instance_.count));
    for (Index b = 0; b < instance_.count; ++b) {
      degree_[at(b)] = static_cast<Index>(overlaps_[at(b)].size());
    }
    floor_.assign(at(instance_.sections), 0);
    left_ = sums_;
    stamp_.assign(at(instance_.sections), 0);
    cuts_.assign(at(instance_.sections), 0);
    for (Index b = 0; b < instance_.count; ++b) {
      for (Index s = first(b); s + 1 < last(b); ++s) {
        ++cuts_[at(s)];
      }
    }
    std::vector<Index> everything(at(instance_.count));
    std::iota(everything.begin(), everything.end(), 0);
    std::vector<Index> cutpoints{0};
    for (Index s = 0; s + 1 < instance_.sections; ++s) {
      if (cuts_[at(s)] == 0) {
        cutpoints.push_back(s + 1);
      }
    }
    cutpoints.push_back(instance_.sections);
    return solve_parts(everything, cutpoints);
  }
  [[nodiscard]] const std::vector<Height>& offsets() const { return result_; }
  [[nodiscard]] std::int64_t steps() const { return steps_; }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  [[nodiscard]] Index first(Index b) const { return instance_.first[at(b)]; }
  [[nodiscard]] Index last(Index b) const { return instance_.last[at(b)]; }
  [[nodiscard]] Height size(Index b) const { return instance_.size[at(b)]; }

  struct Part {
    std::vector<Index> order{};  ///< a place in it is a buffer's rank
    Index first_section{};
    Index last_section{};
  };
  struct Candidate {
    Height low{};
    Index rank{};
    friend constexpr auto operator<=>(const Candidate&, const Candidate&) = default;
  };
  struct Change {
    Index index{};
    Height before{};
  };

  /// Solves what lies between each two cutpoints by itself: they share no buffer.
  Outcome solve_parts(const std::vector<Index>& buffers, const std::vector<Index>& cutpoints) {
    for (std::size_t i = 1; i < cutpoints.size(); ++i) {
      Part part;
      part.first_section = cutpoints[i - 1];
      part.last_section = cutpoints[i];
      for (const Index b : buffers) {
        if (offset_[at(b)] == kNowhere && first(b) < part.last_section &&
            last(b) > part.first_section) {
          part.order.push_back(b);
        }
      }
      steps_ += static_cast<std::int64_t>(buffers.size());
      if (part.order.empty()) {
        continue;
      }
      rank(part);
      const Outcome outcome = descend(part, Candidate{});
      if (outcome != Outcome::found) {
        return outcome;
      }
    }
    return Outcome::found;
  }

  /// Widest, largest or most crowded first; ties by index.
  void rank(Part& part) const {
    struct Key {
      std::array<Height, 3> descending{};
      Index buffer{};
    };
    std::vector<Key> keys;
    keys.reserve(part.order.size());
    for (const Index b : part.order) {
      Height total{};
      for (Index s = first(b); s < last(b); ++s) {
        total = std::max(total, left_[at(s)]);
      }
      const Height width = instance_.width[at(b)];
      const Height area = product(width, size(b));
      Key key{.buffer = b};
      switch (preorder_) {
        case Preorder::total_area_width:
          key.descending = {total, area, width};
          break;
        case Preorder::total_width_area:
          key.descending = {total, width, area};
          break;
        case Preorder::width_area_total:
          key.descending = {width, area, total};
          break;
      }
      keys.push_back(key);
    }
    std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
      return a.descending != b.descending ? a.descending > b.descending : a.buffer < b.buffer;
    });
    for (std::size_t i = 0; i < keys.size(); ++i) {
      part.order[i] = keys[i].buffer;
    }
  }

  Outcome descend(const Part& part, Candidate least) {
    steps_ += static_cast<std::int64_t>(part.order.size());
    if (steps_ > step_limit_) {
      return Outcome::out_of_steps;
    }
    Height lowest_top = std::numeric_limits<Height>::max();
    for (const Index b : part.order) {
      if (offset_[at(b)] != kNowhere) {
        continue;
      }
      lowest_top = std::min(lowest_top, low_[at(b)] + size(b));
      if (degree_[at(b)] == 0 && low_[at(b)] < least.low) {
        return Outcome::none;  // passed, and nothing is left that could lift it
      }
    }
    if (lowest_top == std::numeric_limits<Height>::max()) {
      for (const Index b : part.order) {
        result_[at(b)] = offset_[at(b)];
      }
      return Outcome::found;
    }
    if (candidates_.size() <= depth_) {
      candidates_.emplace_back();
    }
    candidates_[depth_].clear();
    for (std::size_t r = 0; r < part.order.size(); ++r) {
      const Index b = part.order[r];
      const Candidate candidate{low_[at(b)], static_cast<Index>(r)};
      if (offset_[at(b)] == kNowhere && candidate.low < lowest_top && !(candidate < least) &&
          (twin_[at(b)] < 0 || offset_[at(twin_[at(b)])] != kNowhere)) {
        candidates_[depth_].push_back(candidate);
      }
    }
    std::sort(candidates_[depth_].begin(), candidates_[depth_].end());
    for (std::size_t i = 0; i < candidates_[depth_].size(); ++i) {
      const Candidate candidate = candidates_[depth_][i];
      const Index b = part.order[at(candidate.rank)];
      const bool hatless = degree_[at(b)] == 0;
      const std::size_t floor_mark = floor_trail_.size();
      const std::size_t low_mark = low_trail_.size();
      Outcome outcome = Outcome::none;
      if (place(part, b, candidate.low)) {
        ++depth_;
        outcome = go_on(part, b, candidate);
        --depth_;
      }
      take_back(b, floor_mark, low_mark);
      if (outcome != Outcome::none) {
        return outcome;
      }
      if (hatless) {
        break;
      }
    }
    return Outcome::none;
  }

  /// After `b` was placed: where no buffer to place crosses a moment any more, time falls apart.
  Outcome go_on(const Part& part, Index b, Candidate least) {
    result_[at(b)] = offset_[at(b)];
    std::vector<Index> cutpoints;
    for (Index s = first(b); s + 1 < last(b); ++s) {
      if (--cuts_[at(s)] == 0) {
        cutpoints.push_back(s + 1);
      }
    }
    Outcome outcome{};
    if (cutpoints.empty()) {
      outcome = descend(part, least);
    } else {
      cutpoints.insert(cutpoints.begin(), part.first_section);
      cutpoints.push_back(part.last_section);
      outcome = solve_parts(part.order, cutpoints);
    }
    for (Index s = first(b); s + 1 < last(b); ++s) {
      ++cuts_[at(s)];
    }
    return outcome;
  }

  /// Puts `b` at `offset` and draws the conclusions. False: no packing can follow.
  bool place(const Part& part, Index b, Height offset) {
    const Height height = offset + size(b);
    offset_[at(b)] = offset;
    for (Index s = first(b); s < last(b); ++s) {
      floor_trail_.push_back({s, floor_[at(s)]});
      floor_[at(s)] = height;
      left_[at(s)] -= size(b);
    }
    ++stamp_now_;
    bool fits = height <= capacity_;
    Index touched_from = part.last_section;
    Index touched_to = part.first_section;
    for (const Index o : overlaps_[at(b)]) {
      --degree_[at(o)];
      if (offset_[at(o)] != kNowhere || low_[at(o)] >= height) {
        continue;
      }
      low_trail_.push_back({o, low_[at(o)]});
      low_[at(o)] = height;
      fits = fits && height + size(o) <= capacity_;
      touched_from = std::min(touched_from, first(o));
      touched_to = std::max(touched_to, last(o));
      for (Index s = first(o); s < last(o); ++s) {
        stamp_[at(s)] = stamp_now_;
      }
    }
    steps_ += static_cast<std::int64_t>(overlaps_[at(b)].size());
    if (!fits) {
      return false;
    }
    for (Index s = touched_from; s < touched_to; ++s) {
      if (stamp_[at(s)] != stamp_now_ || left_[at(s)] == 0) {
        continue;
      }
      Height lowest = std::numeric_limits<Height>::max();
      for (const Index o : members_[at(s)]) {
        if (offset_[at(o)] == kNowhere) {
          lowest = std::min(lowest, low_[at(o)]);
        }
      }
      steps_ += static_cast<std::int64_t>(members_[at(s)].size());
      if (lowest > floor_[at(s)]) {
        floor_trail_.push_back({s, floor_[at(s)]});
        floor_[at(s)] = lowest;
      }
      if (floor_[at(s)] + left_[at(s)] > capacity_) {
        return false;
      }
    }
    for (Index s = part.first_section; s < part.last_section; ++s) {
      if (std::max(offset, floor_[at(s)]) + left_[at(s)] > capacity_) {
        return false;
      }
    }
    return true;
  }

  void take_back(Index b, std::size_t floor_mark, std::size_t low_mark) {
    while (floor_trail_.size() > floor_mark) {
      floor_[at(floor_trail_.back().index)] = floor_trail_.back().before;
      floor_trail_.pop_back();
    }
    while (low_trail_.size() > low_mark) {
      low_[at(low_trail_.back().index)] = low_trail_.back().before;
      low_trail_.pop_back();
    }
    for (Index s = first(b); s < last(b); ++s) {
      left_[at(s)] += size(b);
    }
    for (const Index o : overlaps_[at(b)]) {
      ++degree_[at(o)];
    }
    offset_[at(b)] = kNowhere;
  }

  const Instance& instance_;
  std::vector<std::vector<Index>> members_;   ///< per section
  std::vector<std::vector<Index>> overlaps_;  ///< per buffer
  std::vector<Index> twin_;                   ///< an equal buffer of a lower index, or -1
  std::vector<Height> sums_;
  std::vector<Height> result_;

  Height capacity_{};
  Preorder preorder_{};
  std::int64_t steps_{};
  std::int64_t step_limit_{};
  std::size_t depth_{};
  std::vector<Height> offset_{};
  std::vector<Height> low_{};    ///< the lowest place that what is placed leaves
  std::vector<Index> degree_{};  ///< how many buffers to place share time with it
  std::vector<Height> floor_{};  ///< per section: nothing more goes below
  std::vector<Height> left_{};   ///< per section: the sum still to place
  std::vector<Index> cuts_{};    ///< buffers to place that cross from section s to s + 1
  std::vector<std::int64_t> stamp_{};
  std::int64_t stamp_now_{};
  std::vector<Change> floor_trail_{};
  std::vector<Change> low_trail_{};
  std::vector<std::vector<Candidate>> candidates_{};
};

std::vector<Index> ordered(const Instance& instance, auto descending_key) {
  std::vector<Index> order(instance.size.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::pair<Height, Height>> keys;
  keys.reserve(order.size());
  for (std::size_t b = 0; b < order.size(); ++b) {
    keys.push_back(descending_key(b));
  }
  std::sort(order.begin(), order.end(), [&](Index a, Index b) {  // by key, then by index
    const auto& key_a = keys[static_cast<std::size_t>(a)];
    const auto& key_b = keys[static_cast<std::size_t>(b)];
    return key_a != key_b ? key_a > key_b : a < b;
  });
  return order;
}

/// Moves what ends in the topmost part of the arena to the front of the order, keeping their order.
void promote_the_highest(const Instance& instance, const std::vector<Height>& offsets, Height floor,
                         std::vector<Index>& order) {
  const Height top = top_of(instance, offsets);
  const Height line = floor + (top - floor) / 2;
  std::stable_partition(order.begin(), order.end(), [&](Index buffer) {
    const auto b = static_cast<std::size_t>(buffer);
    return offsets[b] + instance.size[b] > line;
  });
}

/// The greedy orders, each tried, then shaken by what stuck out of it, until the steps are used up.
void greedy(const Instance& instance, Height floor, std::int64_t steps, Layout& best) {
  const auto width = [&](std::size_t b) { return Height{instance.last[b] - instance.first[b]}; };
  const auto by_start = ordered(instance, [&](std::size_t b) {
    return std::pair{-Height{instance.first[b]}, width(b)};
  });
  const auto by_width = ordered(instance, [&](std::size_t b) {
    return std::pair{width(b), instance.size[b]};
  });
  const auto by_area = ordered(instance, [&](std::size_t b) {
    return std::pair{width(b) * instance.size[b], width(b)};
  });
  const auto by_size = ordered(instance, [&](std::size_t b) {
    return std::pair{instance.size[b], width(b)};
  });
  keep_better(best, instance, stack_in_order(instance, by_width));
  keep_better(best, instance, place_by_time(instance, by_start, false));
  keep_better(best, instance, place_by_time(instance, by_start, true));
  if (best.capacity == floor) {
    return;
  }
  const Neighbours neighbours{instance, by_start};
  std::array orders{by_size, by_width, by_area};
  std::array<bool, 3> tired{};
  constexpr int kRounds = 64;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < orders.size(); ++i) {
      if (tired.at(i) || best.capacity == floor) {
        continue;
      }
      auto offsets = fill_gaps_in_order(instance, neighbours, orders.at(i), steps);
      if (!offsets) {
        return;
      }
      std::vector<Index> before = orders.at(i);
      promote_the_highest(instance, *offsets, floor, orders.at(i));
      tired.at(i) = before == orders.at(i);
      keep_better(best, instance, *std::move(offsets));
    }
  }
}

Instance part_of(const Instance& instance, const std::vector<Index>& buffers) {
  Instance part;
  part.count = static_cast<Index>(buffers.size());
  part.sections = instance.sections;
  for (const Index buffer : buffers) {
    const auto b = static_cast<std::size_t>(buffer);
    part.first.push_back(instance.first[b]);
    part.last.push_back(instance.last[b]);
    part.size.push_back(instance.size[b]);
    part.width.push_back(instance.width[b]);
  }
  return part;
}

Height highest_sum(const Instance& instance) {
  Height highest{};
  for (const Height sum : section_sums(instance)) {
    highest = std::max(highest, sum);
  }
  return highest;
}

/// Long runs of many small buffers: three layers, packed each by itself. At the bottom what lives
/// for more than half of the time (all of it meets in the middle, so stacking wastes nothing
/// there); above it the large; on top the tiny, of which no more than floor/512 ever live together.
/// What the layers lose to one another is small; what they save is the time to pack the large well.
void greedy_in_layers(const Instance& instance, Height floor, std::int64_t steps, Layout& best) {
  std::vector<Index> lasting;
  std::vector<Index> rest;
  for (Index b = 0; b < instance.count; ++b) {
    const auto i = static_cast<std::size_t>(b);
    (2 * (instance.last[i] - instance.first[i]) > instance.sections ? lasting : rest).push_back(b);
  }
  // The largest power of two below which the sizes stay within their share.
  Height threshold = 1;
  while (true) {
    std::vector<Index> tiny;
    std::copy_if(rest.begin(), rest.end(), std::back_inserter(tiny), [&](Index b) {
      return instance.size[static_cast<std::size_t>(b)] < 2 * threshold;
    });
    constexpr Height kShare = 512;
    if (tiny.size() == rest.size() || highest_sum(part_of(instance, tiny)) > floor / kShare) {
      break;
    }
    threshold *= 2;
  }
  std::vector<Index> tiny;
  std::vector<Index> large;
  for (const Index b : rest) {
    (instance.size[static_cast<std::size_t>(b)] < threshold ? tiny : large).push_back(b);
  }
  std::vector<Height> offsets(instance.size.size(), kNowhere);
  Height ground{};
  for (const Index b : lasting) {
    offsets[static_cast<std::size_t>(b)] = ground;
    ground += instance.size[static_cast<std::size_t>(b)];
  }
  for (const auto* layer : {&large, &tiny}) {
    if (layer->empty()) {
      continue;
    }
    const Instance part = part_of(instance, *layer);
    Layout packed;
    greedy(part, highest_sum(part), layer == &large ? steps : 0, packed);
    for (std::size_t i = 0; i < layer->size(); ++i) {
      offsets[static_cast<std::size_t>((*layer)[i])] = ground + packed.offsets[i];
    }
    ground += packed.capacity;
  }
  keep_better(best, instance, std::move(offsets));
}

}  // namespace

std::vector<Lifetime> lifetimes_of(const Trace& trace) {
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::vector<std::size_t> life_of(trace.buffer_slots, kNone);
  std::vector<Lifetime> lifetimes;
  const auto count = static_cast<std::int64_t>(trace.ops.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const Op& op = trace.ops[static_cast<std::size_t>(i)];
    if (op.kind == OpKind::allocate) {
      // The request that a recorded run died of: another policy serves it, for as long as it takes.
      const bool attempt = (op.flags & kAttempt) != 0;
      life_of[op.id] = attempt ? kNone : lifetimes.size();
      lifetimes.push_back({.lower = i, .upper = attempt ? i + 1 : count, .size = Bytes{op.value}});
    } else if ((op.kind == OpKind::free || op.kind == OpKind::complete) &&
               life_of[op.id] != kNone) {
      lifetimes[life_of[op.id]].upper = i;
    }
  }
  if (trace.times_us.size() == trace.ops.size()) {
    for (Lifetime& life : lifetimes) {
      const auto last = static_cast<std::size_t>(std::min(life.upper, count - 1));
      life.duration = trace.times_us[last] - trace.times_us[static_cast<std::size_t>(life.lower)];
    }
  }
  return lifetimes;
}

Bytes largest_live_sum(std::span<const Lifetime> lifetimes) {
  const Instance instance = instance_of(lifetimes);
  Height largest{};
  for (const Height sum : section_sums(instance)) {
    largest = std::max(largest, sum);
  }
  return Bytes{largest};
}

Packing pack(std::span<const Lifetime> lifetimes, const PackBudget& budget) {
  const Instance instance = instance_of(lifetimes);
  Packing packing;
  for (const Height sum : section_sums(instance)) {
    packing.floor = std::max(packing.floor, Bytes{sum});
  }
  if (lifetimes.empty()) {
    packing.proved = true;
    return packing;
  }
  const Height floor = packing.floor.count();
  Layout best;
  constexpr Index kMany = 10'000;
  if (instance.count > kMany) {
    greedy(instance, floor, 0, best);  // by time only
    greedy_in_layers(instance, floor, budget.heuristic_steps, best);
  } else {
    greedy(instance, floor, budget.heuristic_steps, best);
  }

  // `impossible` is the highest capacity known to be too small.
  Height impossible = floor - 1;
  if (best.capacity > floor && instance.count <= budget.search_lifetimes) {
    Search search{instance};
    // Rounds with a doubled limit, as restarts pay more than patience. Each round asks for the
    // floor itself and for points between it and the best: what is easy falls at once.
    std::int64_t limit = 200 * std::int64_t{instance.count};
    while (packing.steps < budget.search_steps && impossible + 1 < best.capacity) {
      limit *= 2;
      constexpr std::array<Height, 4> kEighths{0, 3, 6, 7};
      for (const Height eighths : kEighths) {
        for (const Search::Preorder preorder : Search::kPreorders) {
          const Height least = impossible + 1;
          if (least >= best.capacity || packing.steps >= budget.search_steps) {
            break;
          }
          const Height target = least + (best.capacity - 1 - least) * eighths / 8;
          const Search::Outcome outcome =
              search.run(target, preorder, std::min(limit, budget.search_steps - packing.steps));
          packing.steps += search.steps();
          if (outcome == Search::Outcome::found) {
            keep_better(best, instance, search.offsets());
          } else if (outcome == Search::Outcome::none) {
            impossible = std::max(impossible, target);
          }
        }
      }
    }
  }
  packing.capacity = Bytes{best.capacity};
  packing.proved = best.capacity == impossible + 1;
  packing.offsets.reserve(best.offsets.size());
  for (const Height offset : best.offsets) {
    packing.offsets.emplace_back(offset);
  }
  return packing;
}

bool sound(std::span<const Lifetime> lifetimes, std::span<const Bytes> offsets) {
  if (lifetimes.size() != offsets.size()) {
    return false;
  }
  struct Point {
    std::int64_t time{};
    bool starts{};  ///< ends come first: intervals are half-open
    std::size_t buffer{};
  };
  std::vector<Point> points;
  for (std::size_t b = 0; b < lifetimes.size(); ++b) {
    points.push_back({lifetimes[b].lower, true, b});
    points.push_back({lifetimes[b].upper, false, b});
  }
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return std::tie(a.time, a.starts, a.buffer) < std::tie(b.time, b.starts, b.buffer);
  });
  std::map<Bytes, Bytes> live;  // start -> end
  for (const Point& point : points) {
    const Bytes start = offsets[point.buffer];
    const Bytes end = start + lifetimes[point.buffer].size;
    if (!point.starts) {
      live.erase(start);
      continue;
    }
    const auto after = live.lower_bound(start);
    if (start < Bytes{} || (after != live.end() && after->first < end) ||
        (after != live.begin() && std::prev(after)->second > start)) {
      return false;
    }
    live.emplace(start, end);
  }
  return true;
}

}  // namespace peakcast
