#include "sim/app/fit_answer.hpp"

#include <utility>

#include "sim/app/prediction.hpp"

namespace peakcast::app {
namespace {

/// Runs trials and remembers them.
class Search {
 public:
  Search(FitAnswer& found, const std::function<void(std::int64_t, const Trial&)>& on_trial)
      : found_{found}, on_trial_{on_trial} {}

  bool fits(std::int64_t value) {
    const auto known = found_.trials.find(value);
    if (known != found_.trials.end()) {
      return known->second.fits;
    }
    const FitQuestion& question = found_.question;
    const Run run = with_varied(question.run, question.vary, value);
    check_shapes(run);
    const Trace trace = program_of(run, Time::none);
    const ReplayReport report = predict(run, trace, Time::none).report;
    Trial trial{.fits = !report.oom,
                .peak_reserved = Bytes{report.statistics.reserved.peak},
                .oom = oom_answer(report, trace, run.gpu.spec, run.limit)};
    on_trial_(value, trial);
    return found_.trials.emplace(value, std::move(trial)).first->second.fits;
  }

 private:
  FitAnswer& found_;
  const std::function<void(std::int64_t, const Trial&)>& on_trial_;
};

}  // namespace

std::string_view to_string(Vary vary) {
  return vary == Vary::batch ? "batch" : vary == Vary::seq ? "seq" : "world";
}

Run with_varied(Run run, Vary vary, std::int64_t value) {
  for (BatchShape& shape : run.spec.shapes) {
    (vary == Vary::batch ? shape.batch : vary == Vary::seq ? shape.seq : run.spec.world) = value;
  }
  return run;
}

/// Bisects between a side that fits and a side that does not, both exclusive; as the recorded
/// searches do. Between values it takes for granted that more of the varied quantity needs more
/// memory (fewer ranks do).
FitAnswer answer(const FitQuestion& question,
                 const std::function<void(std::int64_t, const Trial&)>& on_trial) {
  FitAnswer found{.question = question};
  const std::int64_t step = question.step;
  const std::int64_t count = question.max / step;
  // It must make sense before the first one runs.
  check_shapes(with_varied(question.run, question.vary, count * step));
  Search search{found, on_trial};
  const bool fits_above = question.vary == Vary::world;
  std::int64_t low = 0;
  std::int64_t high = count + 1;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (search.fits(middle * step) != fits_above ? low : high) = middle;
  }
  if (fits_above) {
    if (low > 0) {
      found.first_oom = low * step;
    }
    if (high <= count) {
      found.smallest_fit = high * step;
      found.largest_fit = count * step;
    }
  } else {
    if (low > 0) {
      found.largest_fit = low * step;
    }
    if (high <= count) {
      found.first_oom = high * step;
    }
  }
  return found;
}

}  // namespace peakcast::app
