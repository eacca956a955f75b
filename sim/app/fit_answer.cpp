#include "sim/app/fit_answer.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"

namespace peakcast::app {
namespace {

/// Above this many values a bisection finds the limit, which takes for granted that more needs
/// more.
constexpr std::int64_t kMostTrials = 1024;

/// Values as steps away from the easy side, from 1 on.
class Steps {
 public:
  explicit Steps(const FitQuestion& question) : question_{question} {}
  [[nodiscard]] std::int64_t value(std::int64_t step) const {
    const std::int64_t from_below =
        question_.vary == Vary::world ? question_.count() + 1 - step : step;
    return from_below * question_.step;
  }

 private:
  const FitQuestion& question_;
};

Trial tried(const FitQuestion& question, const Evidence& evidence, std::int64_t value) {
  const Run run = with_varied(question.run, question.vary, value);
  check_shapes(run);
  const auto program = program_of(run, Time::none);
  const Prediction prediction = predict(run, program, Time::none);
  Trial trial{.peak_reserved = Bytes{prediction.report.statistics.reserved.peak},
              .headroom = headroom(run, prediction, evidence, question.margin),
              .oom = oom_answer(prediction.report, program, run.gpu.spec, run.limit,
                                run.policy.is_pytorch())};
  trial.verdict = verdict(prediction, trial.headroom);
  return trial;
}

/// What the program has live at once is more than the allocator may have. The twentieth on top is
/// for kernels that take other workspaces at another size: it keeps this monotone.
bool is_hopeless(const FitQuestion& question, std::int64_t value) {
  if (question.run.policy.base == "swap") {  // keeps blocks on the host
    return false;
  }
  Run run = with_varied(question.run, question.vary, value);
  check_shapes(run);
  const Bytes total = run.gpu.spec.total;
  const std::optional<Bytes> limit = run.limit;
  run.limit.reset();
  run.gpu.spec.total = kLargestCard;
  const Prediction unbounded = predict(run, program_of(run, Time::none), Time::none);
  const ReplayReport& report = unbounded.report;
  const Bytes left = total - unbounded.outside_sum;
  const Bytes room = limit ? std::min(*limit, left) : left;
  constexpr std::int64_t kTwentieth = 20;
  return report.oom || report.statistics.allocated.peak > room.count() + room.count() / kTwentieth;
}

/// The first step of 1..count for which `holds`, given that it holds for all after it; count + 1
/// when for none.
template <class Holds>
std::int64_t first_step(std::int64_t count, const Holds& holds) {
  std::int64_t low = 0;
  std::int64_t high = count + 1;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (holds(middle) ? high : low) = middle;
  }
  return high;
}

/// What the trials say, coming from the easy side.
void conclude(FitAnswer& found, std::int64_t tried_steps) {
  const Steps steps{found.question};
  std::vector<std::int64_t> beyond;
  for (std::int64_t step = 1; step <= tried_steps; ++step) {
    const auto trial = found.trials.find(steps.value(step));
    if (trial == found.trials.end()) {  // bisected
      continue;
    }
    if (trial->second.fits()) {
      found.first_oom ? beyond.push_back(step) : void(found.limit = trial->first);
    } else if (!found.first_oom) {
      found.first_oom = trial->first;
    }
  }
  for (std::size_t i = 0; i < beyond.size(); ++i) {
    const std::int64_t value = steps.value(beyond[i]);
    if (i == 0 || beyond[i] != beyond[i - 1] + 1) {
      found.islands.push_back({value, value});
    }
    FitAnswer::Range& last = found.islands.back();
    last = {std::min(last.from, value), std::max(last.to, value)};
  }
  std::sort(found.islands.begin(), found.islands.end(),
            [](const auto& a, const auto& b) { return a.from < b.from; });
}

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

std::optional<std::int64_t> FitAnswer::largest_fit() const {
  return limit && question.vary == Vary::world ? question.count() * question.step : limit;
}

FitAnswer answer(const FitQuestion& question, const OnTrial& on_trial) {
  FitAnswer found{.question = question};
  const Steps steps{found.question};
  const std::int64_t count = question.count();
  // It must make sense before the first one runs.
  check_shapes(with_varied(question.run, question.vary, count * question.step));
  const Evidence evidence = evidence_for(question.run);

  const std::int64_t hopeless = first_step(
      count, [&](std::int64_t step) { return is_hopeless(question, steps.value(step)); });
  if (hopeless <= count) {
    found.hopeless = steps.value(hopeless);
  }
  // The first hopeless one is tried, too: something must fail where there is a limit.
  const std::int64_t last = std::min(hopeless, count);
  found.bisected = last > kMostTrials;
  if (found.bisected) {
    static_cast<void>(first_step(last, [&](std::int64_t step) {
      const std::int64_t value = steps.value(step);
      return !found.trials.emplace(value, tried(question, evidence, value)).first->second.fits();
    }));
  } else {
    std::vector<Trial> trials(static_cast<std::size_t>(last));
    std::mutex mutex;
    std::size_t done = 0;
    run_jobs(trials.size(), 0, [&](std::size_t i) {
      trials[i] = tried(question, evidence, steps.value(static_cast<std::int64_t>(i) + 1));
      const std::lock_guard lock{mutex};
      ++done;
      if (on_trial) {
        on_trial(done, trials.size());
      }
    });
    for (std::size_t i = 0; i < trials.size(); ++i) {
      found.trials.emplace(steps.value(static_cast<std::int64_t>(i) + 1), std::move(trials[i]));
    }
  }
  conclude(found, last);
  return found;
}

}  // namespace peakcast::app
