#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/capture_answer.hpp"
#include "sim/app/out_of_memory.hpp"

namespace peakcast::app {

struct CaptureTrial {
  bool fits{};
  Bytes peak_reserved{};
  std::optional<OomAnswer> oom{};
};

/// `fit` by captures: how large may what varies be, or how few the ranks? A capture takes seconds,
/// so it bisects, which takes for granted that more needs more.
struct CaptureFit {
  std::string vary{"batch"};
  std::int64_t max{256};
  std::int64_t step{1};                ///< only multiples of it are tried; <= max
  bool fewest{};                       ///< more is the easy side, as with ranks
  std::string subject{};               ///< for people, above the answer; "" = none
  std::vector<std::string> program{};  ///< of one's own; empty for a described run
  // Found.
  std::map<std::int64_t, CaptureTrial> trials{};
  std::optional<std::int64_t> limit{};  ///< the last value before the first out-of-memory
  std::optional<std::int64_t> first_oom{};

  /// The largest value that fits; with `fewest` the largest there is, if any fits.
  [[nodiscard]] std::optional<std::int64_t> largest_fit() const;
};

/// Bisects by what `capture` makes of a value; tells of each trial on `console`. Throws Fault: what
/// `capture` throws, a program that fails by itself.
void search(CaptureFit& fit, const std::function<CaptureAnswer(std::int64_t)>& capture,
            const Console& console);

[[nodiscard]] const Writers<CaptureFit>& capture_fit_writers();

}  // namespace peakcast::app
