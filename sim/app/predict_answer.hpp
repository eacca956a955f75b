#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/remedies.hpp"
#include "sim/app/run_flags.hpp"

namespace peakcast::app {

/// `predict`: does this run fit on its card, and what takes the memory?
struct PredictQuestion {
  Run run{};
  std::string timeline{};  ///< the file for streams and memory over time; "" = none
};

/// What would help a run that does not fit.
struct Advice {
  std::optional<Bytes> needs{};  ///< unbounded_need() of the run as it is
  std::vector<Remedy> remedies{};
};

struct PredictAnswer {
  Run run{};
  Prediction prediction{};
  std::optional<OomAnswer> oom{};
  std::optional<Advice> advice{};  ///< when it does not fit

  [[nodiscard]] bool fits() const { return !oom; }
  /// Iterations that ran to their end.
  [[nodiscard]] std::size_t finished_iterations() const;
};

/// Writes the timeline, too, where one is asked for. Throws Fault when the run cannot be made.
[[nodiscard]] PredictAnswer answer(const PredictQuestion& question);

[[nodiscard]] const Writers<PredictAnswer>& predict_writers();

}  // namespace peakcast::app
