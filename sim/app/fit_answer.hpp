#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string_view>

#include "sim/app/answer.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/run_flags.hpp"

namespace peakcast::app {

enum class Vary : std::uint8_t { batch, seq, world };
[[nodiscard]] std::string_view to_string(Vary vary);

/// `run` with `value` for what varies.
[[nodiscard]] Run with_varied(Run run, Vary vary, std::int64_t value);

/// `fit`: how large may the batch or the sequence be on this card, or how few the ranks?
struct FitQuestion {
  Run run{};
  Vary vary{};
  std::int64_t max{256};
  std::int64_t step{1};  ///< only multiples of it are tried; <= max
};

struct Trial {
  bool fits{};
  Bytes peak_reserved{};
  std::optional<OomAnswer> oom{};
};

struct FitAnswer {
  FitQuestion question{};
  std::optional<std::int64_t> largest_fit{};
  std::optional<std::int64_t> first_oom{};
  std::optional<std::int64_t> smallest_fit{};  ///< world only: the fewest ranks
  std::map<std::int64_t, Trial> trials{};      ///< by value

  /// That of first_oom; null without one.
  [[nodiscard]] const Trial* failing() const {
    return first_oom ? &trials.at(*first_oom) : nullptr;
  }
};

/// Calls `on_trial` after each. Throws Fault when the largest trial makes no sense.
[[nodiscard]] FitAnswer answer(const FitQuestion& question,
                               const std::function<void(std::int64_t, const Trial&)>& on_trial);

[[nodiscard]] const Writers<FitAnswer>& fit_writers();

}  // namespace peakcast::app
