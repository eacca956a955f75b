#include "sim/app/evidence.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/embedded.hpp"
#include "workloads/family.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

Bytes bytes_of(std::string_view cell) {
  std::int64_t count{};
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), count);
  check(error == std::errc{} && end == cell.data() + cell.size(), "recordings.csv holds numbers");
  return Bytes{count};
}

Recorded row_of(std::string_view line) {
  std::array<std::string_view, 9> cells{};
  for (std::string_view& cell : cells) {
    cell = line.substr(0, line.find(','));
    line.remove_prefix(std::min(line.size(), cell.size() + 1));
  }
  return {.recording = std::string{cells[0]},
          .family = std::string{cells[1]},
          .precision = std::string{cells[2]},
          .parallel = std::string{cells[3]},
          .gpu = std::string{cells[4]},
          .policy = std::string{cells[5]},
          .reserved = bytes_of(cells[6]),
          .allocated_error = bytes_of(cells[7]),
          .reserved_error = bytes_of(cells[8])};
}

std::vector<Recorded> read_recordings() {
  check(embedded_evidence().size() == 1, "there is one table of recordings");
  std::string_view text = embedded_evidence().front().text;
  std::vector<Recorded> rows;
  for (bool head = true; !text.empty(); head = false) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (!head && !line.empty()) {
      rows.push_back(row_of(line));
    }
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return rows;
}

std::int64_t error_ppm(const Recorded& row) {
  constexpr std::int64_t kMillion = 1'000'000;
  const std::int64_t error = std::abs(row.reserved_error.count());
  return (error * kMillion + row.reserved.count() - 1) / row.reserved.count();
}

}  // namespace

std::span<const Recorded> recordings() {
  static const std::vector<Recorded> kRows = read_recordings();
  return kRows;
}

Bytes Evidence::expected_error(Bytes reserved) const {
  __extension__ using Wide = __int128;
  constexpr std::int64_t kMillion = 1'000'000;
  return Bytes{
      static_cast<std::int64_t>((Wide{reserved.count()} * worst_ppm + kMillion - 1) / kMillion)};
}

Evidence evidence_for(const Run& run) {
  // In the order in which they are given up, the first being the last to go.
  struct Trait {
    std::string Recorded::*of;
    std::string own;
    std::string words;
  };
  const std::string family{run.model.family->name};
  const std::string precision{word_of(run.spec.precision)};
  const std::array<Trait, 3> traits{{{&Recorded::family, family, fmt::format("of {}", family)},
                                     {&Recorded::precision, precision, "in " + precision},
                                     {&Recorded::gpu, run.gpu.name, "on " + run.gpu.name}}};
  constexpr std::int64_t kEnough = 3;
  Evidence evidence;
  for (std::size_t kept = traits.size() + 1; kept-- > 0;) {
    evidence = {};
    for (const Recorded& row : recordings()) {
      const bool alike =
          row.parallel == word_of(run.spec.parallel) && row.policy == run.policy.base &&
          std::all_of(traits.begin(), traits.begin() + static_cast<std::ptrdiff_t>(kept),
                      [&](const Trait& trait) { return row.*trait.of == trait.own; });
      if (alike) {
        ++evidence.recordings;
        evidence.exact += row.allocated_error == Bytes{} && row.reserved_error == Bytes{} ? 1 : 0;
        evidence.worst_ppm = std::max(evidence.worst_ppm, error_ppm(row));
      }
    }
    if (evidence.recordings >= kEnough || (kept == 0 && evidence.recordings > 0)) {
      break;
    }
  }
  if (evidence.recordings == 0) {
    for (const Recorded& row : recordings()) {
      evidence.worst_ppm = std::max(evidence.worst_ppm, error_ppm(row));
    }
  }
  // What none of those that are left shares with the run.
  for (const Trait& trait : traits) {
    const auto rows = recordings();
    if (std::none_of(rows.begin(), rows.end(), [&](const Recorded& row) {
          return row.parallel == word_of(run.spec.parallel) && row.policy == run.policy.base &&
                 row.*trait.of == trait.own;
        })) {
      evidence.unlike.push_back(trait.words);
    }
  }
  return evidence;
}

}  // namespace peakcast::app
