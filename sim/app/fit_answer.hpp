#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/verdict.hpp"

namespace peakcast::app {

enum class Vary : std::uint8_t { batch, seq, world };
[[nodiscard]] std::string_view to_string(Vary vary);

/// `run` with `value` for what varies.
[[nodiscard]] Run with_varied(Run run, Vary vary, std::int64_t value);

/// `fit`: how large may the batch or the sequence be on this card, or how few the ranks?
struct FitQuestion {
  Run run{};
  Margin margin{};
  Vary vary{};
  std::int64_t max{256};
  std::int64_t step{1};  ///< only multiples of it are tried; <= max

  [[nodiscard]] std::int64_t count() const { return max / step; }
};

struct Trial {
  Verdict verdict{};
  Bytes peak_reserved{};
  Headroom headroom{};
  std::optional<OomAnswer> oom{};

  [[nodiscard]] bool fits() const { return verdict != Verdict::out_of_memory; }
};

/// Memory is not monotone in what varies: fragmentation may let a larger run through where a
/// smaller one fails. So a limit is where everything on its easy side fits, and what fits beyond it
/// stands apart.
struct FitAnswer {
  FitQuestion question{};
  std::map<std::int64_t, Trial> trials{};  ///< by value
  /// The last value before the first out-of-memory, coming from the easy side (few, short; for
  /// world: many ranks).
  std::optional<std::int64_t> limit{};
  std::optional<std::int64_t> first_oom{};
  struct Range {
    std::int64_t from{};
    std::int64_t to{};
  };
  std::vector<Range> islands{};  ///< beyond first_oom, but they fit; ascending
  /// From here on, away from the easy side, the program's own live bytes are beyond the card: no
  /// allocator could help, and nothing was tried.
  std::optional<std::int64_t> hopeless{};
  bool bisected{};  ///< too many values for trying each

  /// The largest value up to which everything fits; world: the largest tried, if it fits.
  [[nodiscard]] std::optional<std::int64_t> largest_fit() const;
  /// That of first_oom; null without one.
  [[nodiscard]] const Trial* failing() const {
    return first_oom ? &trials.at(*first_oom) : nullptr;
  }
};

/// Hears how many of how many trials are done; may be called from several threads, one at a time.
using OnTrial = std::function<void(std::size_t done, std::size_t of)>;

/// Throws Fault when the largest trial makes no sense.
[[nodiscard]] FitAnswer answer(const FitQuestion& question, const OnTrial& on_trial = {});

[[nodiscard]] const Writers<FitAnswer>& fit_writers();
/// How a text about `question` names what varies.
[[nodiscard]] VariedWords varied_words(const FitQuestion& question);

}  // namespace peakcast::app
