#include "allocators/peakcast/stitch.hpp"

#include <algorithm>
#include <array>
#include <tuple>

namespace peakcast::near_floor {
namespace {

constexpr std::size_t kNoRun = ~std::size_t{0};
/// How many first and how many last parts are tried, in each combination.
constexpr std::size_t kEnds = 5;

}  // namespace

void Stitcher::collect() {
  runs_.clear();
  extents_.for_each_free(handles_.granularity() / 8, [&](std::uint32_t id) {
    const Extents::Extent& extent = extents_[id];
    const Handles::Handle& low = handles_[handles_.at(extent.home)];
    const Handles::Handle& high = handles_[handles_.at(extent.end() - 1)];
    Run run{.home = extent.home};
    const std::uint64_t begin = extent.home == low.home ? low.home : low.end();
    const std::uint64_t end = extent.end() == high.end() ? high.end() : high.home;
    if (begin > extent.end() || end < extent.home) {
      return;  // within one handle
    }
    run.suffix = begin - extent.home;
    run.prefix = extent.end() - end;
    run.middle = end > begin ? end - begin : 0;
    if (end < begin) {  // within one handle, but at one of its ends
      run.suffix = extent.end() == low.end() ? extent.size : 0;
      run.prefix = extent.home == low.home ? extent.size : 0;
    }
    runs_.push_back(run);
  });
  std::sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) {
    return std::tuple{b.middle, a.home} < std::tuple{a.middle, b.home};
  });
}

std::uint64_t Stitcher::room() {
  collect();
  std::uint64_t middles = 0;
  // The best end parts of two different runs.
  std::array<std::pair<std::uint64_t, std::size_t>, 2> suffixes{{{0, kNoRun}, {0, kNoRun}}};
  auto prefixes = suffixes;
  const auto note = [](auto& best, std::uint64_t size, std::size_t run) {
    if (size > best[0].first) {
      best[1] = best[0];
      best[0] = {size, run};
    } else if (size > best[1].first) {
      best[1] = {size, run};
    }
  };
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    middles += runs_[i].middle;
    note(suffixes, runs_[i].suffix, i);
    note(prefixes, runs_[i].prefix, i);
  }
  std::uint64_t ends = 0;
  for (const auto& [suffix, first] : suffixes) {
    for (const auto& [prefix, last] : prefixes) {
      ends = std::max(ends, first != last || first == kNoRun ? suffix + prefix : suffix);
    }
  }
  return middles + ends;
}

/// `first` gives its suffix and middle, cut at the left; `last` its middle and prefix, cut at the
/// right; between them whole handles, the largest middles first.
bool Stitcher::compose(std::uint64_t size, std::size_t first, std::size_t last,
                       std::vector<Range>& parts) const {
  parts.clear();
  std::uint64_t need = size;
  const std::uint64_t most_first = first == kNoRun ? 0 : runs_[first].as_first();
  const std::uint64_t most_last = last == kNoRun ? 0 : runs_[last].as_last();
  need -= std::min(need, most_first);
  need -= std::min(need, most_last);
  for (std::size_t i = 0; i < runs_.size() && need > 0 && runs_[i].middle > 0; ++i) {
    if (i == first || i == last) {
      continue;
    }
    std::uint64_t taken = runs_[i].middle;
    const std::uint64_t home = runs_[i].home + runs_[i].suffix;
    if (taken > need) {
      // Whole handles only; the surplus is cut from the ends below. The smallest middle that is
      // enough leaves the large ones whole.
      std::size_t best = i;
      for (std::size_t j = i + 1; j < runs_.size() && runs_[j].middle >= need; ++j) {
        best = j != first && j != last ? j : best;
      }
      const std::uint64_t from = runs_[best].home + runs_[best].suffix;
      const Handles::Handle& cut = handles_[handles_.at(from + need - 1)];
      parts.push_back({from, cut.end() - from});
      need = 0;
      break;
    }
    parts.push_back({home, taken});
    need -= taken;
  }
  if (need > 0) {
    return false;
  }
  // The ends make up what the middles lack.
  std::uint64_t middles = 0;
  for (const Range& part : parts) {
    middles += part.size;
  }
  std::uint64_t ends = size > middles ? size - middles : 0;
  if (middles > size || (most_first == 0 && most_last == 0)) {
    // No end is needed: the last middle is cut.
    parts.back().size -= middles - size;
    return true;
  }
  const std::uint64_t from_first = std::min(ends, most_first);
  ends -= from_first;
  if (from_first > 0) {
    const std::uint64_t end = runs_[first].home + most_first;
    parts.insert(parts.begin(), {end - from_first, from_first});
  }
  if (ends > 0) {
    parts.push_back({runs_[last].home + runs_[last].suffix, ends});
  }
  return true;
}

bool Stitcher::handles_of(const std::vector<Range>& parts,
                          std::vector<std::uint32_t>& sequence) const {
  sequence.clear();
  for (const Range& part : parts) {
    for (std::uint64_t at = part.home; at < part.home + part.size;) {
      const std::uint32_t handle = handles_.at(at);
      sequence.push_back(handle);
      at = handles_[handle].end();
    }
  }
  // One handle at both ends would be mapped twice, and its memory would count twice.
  return sequence.size() < 2 || sequence.front() != sequence.back();
}

bool Stitcher::choose(std::uint64_t size, std::vector<Range>& parts,
                      std::vector<std::uint32_t>& sequence) {
  collect();
  // The ends that give most, of which the combination with the fewest handles wins.
  std::vector<std::size_t> firsts(runs_.size());
  for (std::size_t i = 0; i < firsts.size(); ++i) {
    firsts[i] = i;
  }
  std::vector<std::size_t> lasts = firsts;
  const auto keep_best = [&](std::vector<std::size_t>& ends, auto most) {
    const std::size_t kept = std::min(kEnds, ends.size());
    std::partial_sort(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(kept), ends.end(),
                      [&](std::size_t a, std::size_t b) {
                        return std::tuple{most(runs_[b]), a} < std::tuple{most(runs_[a]), b};
                      });
    ends.resize(kept);
    ends.push_back(kNoRun);
  };
  keep_best(firsts, [](const Run& run) { return run.suffix; });
  keep_best(lasts, [](const Run& run) { return run.prefix; });
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {  // the largest as ends, too
    if (i < runs_.size()) {
      firsts.push_back(i);
      lasts.push_back(i);
    }
  }
  std::vector<Range> tried;
  std::vector<std::uint32_t> tried_sequence;
  bool any = false;
  for (const std::size_t first : firsts) {
    for (const std::size_t last : lasts) {
      if ((first == last && first != kNoRun) || !compose(size, first, last, tried) ||
          !handles_of(tried, tried_sequence)) {
        continue;
      }
      if (!any || tried_sequence.size() < sequence.size()) {
        parts.swap(tried);
        sequence.swap(tried_sequence);
        any = true;
      }
    }
  }
  return any;
}

}  // namespace peakcast::near_floor
