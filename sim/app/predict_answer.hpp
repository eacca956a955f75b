#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/advice.hpp"
#include "sim/app/answer.hpp"
#include "sim/app/evidence.hpp"
#include "sim/app/host_memory.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/verdict.hpp"

namespace peakcast::app {

/// `predict`: does this run fit on its card, and what takes the memory?
struct PredictQuestion {
  Run run{};
  Margin margin{};
  std::optional<Loader> loader{};  ///< null: the host's side is not asked for
  std::string timeline{};          ///< the file for streams and memory over time; "" = none
  bool overwrites{};               ///< a timeline that is there
};

struct PredictAnswer {
  Run run{};
  Prediction prediction{};
  std::optional<OomAnswer> oom{};
  Evidence evidence{};
  Headroom headroom{};
  Verdict verdict{};
  std::optional<Advice> advice{};    ///< when it was asked for
  std::optional<HostMemory> host{};  ///< likewise

  [[nodiscard]] bool fits() const { return !oom; }
  /// Iterations that ran to their end.
  [[nodiscard]] std::size_t finished_iterations() const;
};

/// What an iteration's time is bound by: "compute" or "communication", unless the device idles for
/// more than a quarter of it ("host", "allocator").
[[nodiscard]] std::string_view bound_by(const TimeSplit& split);

/// Without advice, which takes a while longer: advise() of advice.hpp. Writes the timeline, too,
/// where one is asked for. Throws Fault when the run cannot be made.
[[nodiscard]] PredictAnswer answer(const PredictQuestion& question);

[[nodiscard]] const Writers<PredictAnswer>& predict_writers();
/// The advice alone, as the text ends with it.
[[nodiscard]] std::string advice_text(const Advice& advice);

}  // namespace peakcast::app
