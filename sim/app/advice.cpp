#include "sim/app/advice.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/embedded.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

/// Program operations that all runs together may have; a second or two.
constexpr std::int64_t kBudget = 6'000'000;
constexpr std::size_t kMostRemedies = 8;

/// A change of flags. `apply` says whether it changes anything.
struct Change {
  std::string (*flags)(const Run& changed);
  bool (*apply)(Run& run);
};

bool expand_segments(Run& run) {
  constexpr std::string_view kExpandable = "expandable_segments";
  if (!run.policy.is_pytorch() ||
      (run.alloc_conf + run.policy.settings).find(kExpandable) != std::string::npos) {
    return false;
  }
  run.alloc_conf +=
      std::string{run.alloc_conf.empty() ? "" : ","} + std::string{kExpandable} + ":True";
  return true;
}

template <class T>
bool replace(T& value, T from, T to) {
  const bool applies = value == from;
  value = applies ? to : value;
  return applies;
}

constexpr std::array<Change, 4> kChanges{{
    {[](const Run& changed) { return "--alloc-conf " + changed.alloc_conf; }, expand_segments},
    {[](const Run&) { return std::string{"--attention sdpa"}; },
     [](Run& run) { return replace(run.spec.attention, Attention::eager, Attention::sdpa); }},
    {[](const Run&) { return std::string{"--optimizer adamw-fused"}; },
     [](Run& run) {
       return replace(run.spec.optimizer, OptimizerKind::adamw, OptimizerKind::adamw_fused);
     }},
    {[](const Run&) { return std::string{"--checkpoint full"}; },
     [](Run& run) { return replace(run.spec.checkpoint, Checkpoint::none, Checkpoint::full); }},
}};

/// A run in place of another, and what was changed but for the batch.
struct Changed {
  Run run{};
  std::string flags{};
  bool hardware{};
  bool applies{true};
};

/// A subset of kChanges by bit, and in how many parts a micro-batch is split.
struct Set {
  unsigned changes{};
  std::int64_t parts{1};
};
constexpr unsigned kAllChanges = (1U << kChanges.size()) - 1;

void add_flags(std::string& flags, const std::string& more) {
  flags += (flags.empty() ? "" : " ") + more;
}

/// `applies` is false where a change of the set changes nothing; the others are made.
Changed changed(const Changed& base, const Set& set) {
  Changed out = base;
  for (unsigned i = 0; i < kChanges.size(); ++i) {
    if ((set.changes >> i & 1U) == 0) {
      continue;
    }
    if (kChanges[i].apply(out.run)) {
      add_flags(out.flags, kChanges[i].flags(out.run));
    } else {
      out.applies = false;
    }
  }
  if (set.parts > 1) {
    out.run.spec.shapes.front().batch /= set.parts;
    out.run.spec.accumulate *= set.parts;
  }
  return out;
}

/// Every flag by which `change` differs from `run`.
std::string flags_of(const Changed& change, const Run& run) {
  std::string flags = change.flags;
  const BatchShape& shape = change.run.spec.shapes.front();
  if (shape.batch != run.spec.shapes.front().batch) {
    add_flags(flags, fmt::format("--batch {}", shape.batch));
  }
  if (change.run.spec.accumulate != run.spec.accumulate) {
    add_flags(flags, fmt::format("--accumulate {}", change.run.spec.accumulate));
  }
  return flags;
}

/// Into how many equal micro-batches the batch can be split, ascending from 1.
std::vector<std::int64_t> splits_of(const Run& run) {
  if (run.spec.shapes.size() != 1) {
    return {1};
  }
  const std::int64_t batch = run.spec.shapes.front().batch;
  std::vector<std::int64_t> found;
  for (std::int64_t parts = 1; parts * parts <= batch; ++parts) {
    if (batch % parts == 0) {
      found.push_back(parts);
      if (parts * parts != batch) {
        found.push_back(batch / parts);
      }
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The same program with fewer of the micro-batches and iterations that repeat.
Run shortened(Run run, std::int64_t micro_batches, std::int64_t iterations = 3) {
  run.spec.accumulate = std::min(run.spec.accumulate, micro_batches);
  if (run.spec.shapes.size() == 1) {
    run.spec.iterations = std::min(run.spec.iterations, iterations);
  }
  return run;
}

struct Outcome {
  Verdict verdict{};
  Headroom headroom{};
  Prediction prediction{};
  std::int64_t operations{};
};

class Search {
 public:
  Search(const Run& run, const Evidence& evidence, const Margin& margin)
      : run_{run}, evidence_{evidence}, margin_{margin} {}

  [[nodiscard]] Outcome outcome(const Run& run, Time time) const {
    const auto program = program_of(run, time);
    Outcome out;
    out.operations = operations_of(program);
    if (sum_of(outside_items(run.gpu, program.used)) >= run.gpu.spec.total) {
      out.verdict = Verdict::out_of_memory;  // the context alone
      return out;
    }
    out.prediction = predict(run, program, time);
    out.headroom = headroom(run, out.prediction, evidence_, margin_);
    out.verdict = verdict(out.prediction, out.headroom);
    return out;
  }

  /// Whether the budget is not spent yet; counts `operations`.
  bool spend(std::int64_t operations) {
    ++advice_.runs;
    spent_ += operations;
    advice_.complete = advice_.complete && spent_ < kBudget;
    return advice_.complete;
  }

  /// The cost of a run that is known to fit, with its step in full.
  [[nodiscard]] std::optional<Cost> cost(const Run& run, Verdict* said = nullptr) {
    const std::int64_t micro_batches = run.spec.accumulate;
    const Outcome out = outcome(shortened(run, Advice::kMicroBatches), Time::simulated);
    spend(out.operations);
    if (out.verdict == Verdict::out_of_memory) {
      return std::nullopt;
    }
    if (said != nullptr) {
      *said = out.verdict;
    }
    Cost cost{.peak_reserved = Bytes{out.prediction.report.statistics.reserved.peak},
              .peak_device = out.prediction.peak_device(),
              .step = out.prediction.report.iterations.back().duration,
              .spare = out.headroom.spare};
    if (micro_batches > Advice::kMicroBatches) {
      const Outcome fewer = outcome(shortened(run, Advice::kMicroBatches - 1), Time::simulated);
      spend(fewer.operations);
      if (fewer.verdict != Verdict::out_of_memory) {
        const SimDuration each = cost.step - fewer.prediction.report.iterations.back().duration;
        cost.step += each * (micro_batches - Advice::kMicroBatches);
      }
    }
    return cost;
  }

  void add(const Changed& change) {
    Verdict said{};
    if (const auto found = cost(change.run, &said)) {
      advice_.remedies.push_back({flags_of(change, run_), said, change.hardware, *found});
    }
  }

  bool find_sets(const Changed& base);
  void find_shards();
  void find_cards();
  [[nodiscard]] Advice finish();

 private:
  template <class Program>
  [[nodiscard]] static std::int64_t operations_of(const Program& program) {
    if constexpr (requires { program.trace; }) {
      return static_cast<std::int64_t>(program.trace.ops.size());
    } else {
      return static_cast<std::int64_t>(program.ops.size());
    }
  }
  /// The search only asks whether a run fits. Most that do not run out in their first step; what
  /// is there from then on (gradients, the optimizer's state) is all there in the second. What is
  /// advised is run again in full by cost().
  [[nodiscard]] Outcome short_outcome(const Run& run) const {
    const Outcome first = outcome(shortened(run, 1, 1), Time::none);
    if (first.verdict == Verdict::out_of_memory) {
      return first;
    }
    Outcome second = outcome(shortened(run, 2, 2), Time::none);
    second.operations += first.operations;
    return second;
  }

  const Run& run_;
  const Evidence& evidence_;
  const Margin& margin_;
  Advice advice_{};
  std::int64_t spent_{};
};

/// Every subset of the changes, the smaller first, each with the fewest parts that fit; a set is of
/// no interest where a subset of it fits with as few. Subsets of one size run side by side. False
/// when not even all changes and the most parts together fit: then nothing less is tried.
bool Search::find_sets(const Changed& base) {
  const std::vector<std::int64_t> splits = splits_of(base.run);
  const Outcome everything =
      short_outcome(changed(base, {.changes = kAllChanges, .parts = splits.back()}).run);
  if (!spend(everything.operations) || everything.verdict == Verdict::out_of_memory) {
    return false;
  }
  struct Job {
    unsigned changes{};
    std::size_t bound{};  // of the splits that are of interest, exclusive
    std::size_t split{};
    std::int64_t operations{};
    std::int64_t runs{};
  };
  std::vector<Job> fitting;
  for (std::size_t size = 0; size <= kChanges.size() && advice_.complete; ++size) {
    std::vector<Job> jobs;
    for (unsigned changes = 0; changes <= kAllChanges; ++changes) {
      if (static_cast<std::size_t>(__builtin_popcount(changes)) != size ||
          !changed(base, {.changes = changes}).applies) {
        continue;
      }
      Job job{.changes = changes, .bound = splits.size()};
      for (const Job& other : fitting) {
        job.bound = (other.changes & ~changes) == 0 ? std::min(job.bound, other.split) : job.bound;
      }
      if (job.bound > 0) {
        jobs.push_back(job);
      }
    }
    run_jobs(jobs.size(), 0, [&](std::size_t i) {
      Job& job = jobs[i];
      // More parts need less: a bisection finds the fewest. The run as it is is no change.
      std::size_t low = job.changes == 0 && !base.hardware ? 1 : 0;
      std::size_t high = job.bound;
      while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        const Outcome out = short_outcome(changed(base, {job.changes, splits[middle]}).run);
        job.operations += out.operations;
        ++job.runs;
        (out.verdict == Verdict::out_of_memory ? low = middle + 1 : high = middle);
      }
      job.split = low;
    });
    for (const Job& job : jobs) {
      advice_.runs += job.runs - 1;
      spend(job.operations);
      if (job.split < job.bound) {
        fitting.push_back(job);
      }
    }
  }
  for (const Job& job : fitting) {
    add(changed(base, {job.changes, splits[job.split]}));
  }
  return true;
}

/// The run over the fewest ranks whose shards fit, each with its part of the batch.
void Search::find_shards() {
  if (run_.spec.parallel != Parallel::none || run_.spec.shapes.size() != 1) {
    return;
  }
  constexpr std::int64_t kMostRanks = 64;
  for (std::int64_t ranks = 2; ranks <= kMostRanks && advice_.complete; ranks *= 2) {
    if (run_.spec.shapes.front().batch % ranks != 0) {
      return;
    }
    Changed shards{
        .run = run_, .flags = fmt::format("--parallel fsdp2 --world {}", ranks), .hardware = true};
    shards.run.spec.parallel = Parallel::fsdp2;
    shards.run.spec.world = ranks;
    shards.run.spec.shapes.front().batch /= ranks;
    try {
      if (find_sets(shards)) {
        return;
      }
    } catch (const Fault& fault) {  // what shards do to adapters, say, is not modelled: no advice
      if (fault.code() != ErrorCode::unsupported) {
        throw;
      }
      return;
    }
  }
}

/// The smallest larger card on which the run fits as it is.
void Search::find_cards() {
  if (run_.limit || run_.spec.capacity) {  // what is too little is not the card's
    return;
  }
  std::vector<GpuDescription> cards;
  for (const EmbeddedFile& file : embedded_gpus()) {
    cards.push_back(value_or_throw(load_gpu_description(std::string{file.name})));
  }
  std::stable_sort(cards.begin(), cards.end(),
                   [](const auto& a, const auto& b) { return a.spec.total < b.spec.total; });
  const std::size_t before = advice_.remedies.size();
  for (const GpuDescription& card : cards) {
    if (card.spec.total > run_.gpu.spec.total && advice_.remedies.size() == before &&
        advice_.complete) {
      Changed other{.run = run_, .flags = "--gpu " + card.name, .hardware = true};
      other.run.gpu = card;
      add(other);
    }
  }
}

Advice Search::finish() {
  Run unbounded = run_;
  unbounded.limit.reset();
  unbounded.gpu.spec.total = kLargestCard;
  advice_.unbounded = cost(unbounded);
  std::stable_sort(advice_.remedies.begin(), advice_.remedies.end(),
                   [](const Remedy& a, const Remedy& b) { return a.cost.step < b.cost.step; });
  // What is slower than another of its kind and leaves no more free helps nobody; nor does what is
  // no better than a run that fits as it is.
  const Outcome as_it_is = short_outcome(run_);
  const bool fits = as_it_is.verdict != Verdict::out_of_memory;
  std::vector<Remedy> kept;
  for (Remedy& remedy : advice_.remedies) {
    const bool beaten = std::any_of(kept.begin(), kept.end(),
                                    [&](const Remedy& other) {
                                      return other.hardware == remedy.hardware &&
                                             other.verdict <= remedy.verdict &&
                                             other.cost.spare >= remedy.cost.spare;
                                    }) ||
                        (fits && advice_.unbounded && remedy.cost.step >= advice_.unbounded->step &&
                         remedy.cost.spare <= as_it_is.headroom.spare);
    if (!beaten && kept.size() < kMostRemedies) {
      kept.push_back(std::move(remedy));
    }
  }
  advice_.remedies = std::move(kept);
  return advice_;
}

}  // namespace

Advice advise(const Run& run, const Evidence& evidence, const Margin& margin) {
  Search search{run, evidence, margin};
  search.find_sets({.run = run});
  search.find_shards();
  search.find_cards();
  return search.finish();
}

}  // namespace peakcast::app
