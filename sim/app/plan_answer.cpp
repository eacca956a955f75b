#include "sim/app/plan_answer.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/evidence.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"
#include "workloads/card_costs.hpp"

namespace peakcast::app {
namespace {

/// The costs that predict() takes, and how long what they were asked for takes in sum.
class CountedCosts final : public torch::CostModel {
 public:
  explicit CountedCosts(const Run& run) : costs_{run.gpu} { costs_.set_host_speed(run.host_speed); }
  [[nodiscard]] SimDuration kernel(const torch::KernelCost& cost) const override {
    const SimDuration time = costs_.kernel(cost);
    const bool product = cost.kind == torch::KernelCost::Kind::matmul ||
                         cost.kind == torch::KernelCost::Kind::attention;
    (product ? products_ : others_) += time;
    return time;
  }
  [[nodiscard]] SimDuration collective(const torch::CollectiveCost& cost) const override {
    return costs_.collective(cost);
  }
  [[nodiscard]] SimDuration host(torch::HostWork work, torch::HostThread thread) const override {
    return costs_.host(work, thread);
  }
  /// Products of matrices and attention.
  [[nodiscard]] SimDuration products() const { return products_; }
  [[nodiscard]] SimDuration others() const { return others_; }

 private:
  CardCosts costs_;
  mutable SimDuration products_{};
  mutable SimDuration others_{};
};

/// What lies outside the allocator alone fills the card.
bool leaves_nothing(const Run& run, const OutsideUse& used) {
  Bytes sum;
  for (const OutsideItem& item : outside_items(run.gpu, used)) {
    sum += item.size;
  }
  return sum >= run.gpu.spec.total;
}

/// Phase marks of that name up to `op`.
std::int64_t marks_before(const Program& program, std::string_view name, std::int64_t op) {
  return std::count_if(program.ops.begin(), program.ops.begin() + op, [&](const Op& each) {
    return each.kind == OpKind::mark && program.strings[each.id] == name;
  });
}

enum class End : std::uint8_t { fits, out_of_memory, slower, not_modelled };

struct Outcome {
  End end{};
  Candidate candidate{};
  std::optional<SimDuration> products{};  ///< of one micro-batch, where it became known
  std::string reason{};
};

/// Runs combinations in waves of a fixed size: what is skipped follows from the waves before alone,
/// and so is the same on any number of threads.
///
/// What may be skipped, and why no answer can be lost by it:
/// - `least_states` are on each card together, so a card with less runs out.
/// - A run of one iteration with at most two micro-batches begins as the whole run does: the loop
///   looks at nothing further ahead than whether this micro-batch is the step's last. If it runs
///   out before the second micro-batch begins, or makes as many as the whole run, the whole run
///   does so at that very allocation.
/// - Every micro-batch of a combination multiplies the same matrices, on any number of ranks, and
///   kernels take turns: a step is no shorter than its micro-batches' products. Where that alone is
///   more than the step of another that would stand in its place, the other stands there.
class Search {
 public:
  explicit Search(const PlanQuestion& question)
      : question_{question}, all_{combinations(question.axes, question.global_batch)} {
    if (question.sort == PlanSort::time) {  // more cards are seldom slower: short steps first
      std::stable_sort(all_.begin(), all_.end(), [](const Combination& a, const Combination& b) {
        return a.world > b.world;
      });
    }
  }
  [[nodiscard]] PlanAnswer answer(const OnCombination& heard);

 private:
  using Way = std::tuple<std::int64_t, Parallel, Shard, bool>;
  using Key = std::pair<std::int64_t, SimDuration>;  ///< what the answer is sorted by
  using Work = std::tuple<Parallel, Shard, bool, Checkpoint, std::int64_t>;
  struct Best {
    std::optional<Candidate> fitting{};
    std::optional<Candidate> tight{};
  };
  static Way way_of(const Combination& at) {
    return {at.world, at.split.parallel, at.split.shard, at.split.reshard_after_forward};
  }
  static Work work_of(const Combination& at) {
    return {at.split.parallel, at.split.shard, at.split.reshard_after_forward, at.checkpoint,
            at.batch};
  }
  [[nodiscard]] Key key_of(std::int64_t world, SimDuration step) const {
    return {question_.sort == PlanSort::cards ? world : 0, step};
  }
  [[nodiscard]] bool is_beaten(const Combination& at, SimDuration products) const;
  [[nodiscard]] Outcome outcome(const Combination& at) const;
  [[nodiscard]] std::optional<Outcome> short_outcome(const Combination& at, const Run& run) const;
  [[nodiscard]] Outcome full_outcome(const Combination& at, const Run& run) const;
  void take(Outcome outcome, const Combination& at);
  void find_last_key();

  const PlanQuestion& question_;
  std::vector<Combination> all_;
  PlanAnswer found_{};
  std::map<Way, Best> best_{};
  std::map<Work, SimDuration> products_{};  ///< of one micro-batch
  std::optional<Key> last_{};  ///< of the last that would be shown, of those that fit with room
};

bool Search::is_beaten(const Combination& at, SimDuration products) const {
  const SimDuration least = products * at.accumulate;
  if (last_ && key_of(at.world, least) > *last_) {
    return true;
  }
  const auto own = best_.find(way_of(at));
  return own != best_.end() && own->second.fitting && least > own->second.fitting->step;
}

/// What the first iteration with at most two micro-batches decides; none when it decides nothing.
std::optional<Outcome> Search::short_outcome(const Combination& at, const Run& run) const {
  constexpr std::int64_t kMicroBatches = 2;
  Run begin = run;
  begin.spec.iterations = 1;
  begin.spec.accumulate = std::min(at.accumulate, kMicroBatches);
  const CountedCosts costs{begin};
  const Program program = program_of(begin, costs);
  Outcome out{.products = costs.products() / begin.spec.accumulate};
  if (is_beaten(at, *out.products)) {
    out.end = End::slower;
    return out;
  }
  out.end = End::out_of_memory;
  if (leaves_nothing(run, program.used)) {
    return out;
  }
  for (const std::string& alloc_conf : question_.axes.alloc_confs) {
    begin.alloc_conf = alloc_conf;
    const auto oom = predict(begin, program, Time::simulated).report.oom;
    const bool same_so_far = at.accumulate <= kMicroBatches ||
                             (oom && marks_before(program, "data", oom->op_index) < kMicroBatches);
    if (!oom || !same_so_far) {
      return std::nullopt;
    }
  }
  return out;
}

Outcome Search::full_outcome(const Combination& at, const Run& run) const {
  const CountedCosts costs{run};
  const Program program = program_of(run, costs);
  Outcome out{.end = End::out_of_memory,
              .products = costs.products() / (at.accumulate * run.spec.iterations)};
  if (leaves_nothing(run, program.used)) {
    return out;
  }
  for (const std::string& alloc_conf : question_.axes.alloc_confs) {
    Run tried = run;
    tried.alloc_conf = alloc_conf;
    const Prediction prediction = predict(tried, program, Time::simulated);
    const Headroom room = headroom(tried, prediction, evidence_for(tried), question_.margin);
    const Verdict verdict = app::verdict(prediction, room);
    if (verdict == Verdict::out_of_memory || (out.end == End::fits && verdict == Verdict::tight)) {
      continue;
    }
    const IterationReport& last = prediction.report.iterations.back();
    std::string_view bound = bound_by(last.split);
    if (bound == "compute" && costs.others() > costs.products()) {
      bound = "memory traffic";
    }
    constexpr std::int64_t kSecond = 1'000'000'000;
    __extension__ using Wide = __int128;
    const Wide tokens = Wide{question_.global_batch} * run.spec.shapes.front().seq * kSecond;
    out.end = End::fits;
    out.candidate = {.at = at,
                     .alloc_conf = alloc_conf,
                     .verdict = verdict,
                     .peak_reserved = Bytes{prediction.report.statistics.reserved.peak},
                     .peak_device = prediction.peak_device(),
                     .headroom = room,
                     .step = last.duration,
                     .split = last.split,
                     .tokens_per_second = static_cast<std::int64_t>(
                         tokens / std::max<Wide>(1, last.duration.count())),
                     .bound_by = bound};
    if (verdict == Verdict::fits) {  // other settings are for runs that do not
      break;
    }
  }
  return out;
}

Outcome Search::outcome(const Combination& at) const {
  const Run run = spread(question_.run, at, question_.axes.alloc_confs.front());
  try {
    check_shapes(run);
  } catch (const Fault&) {  // the sequence was checked before: no tensor is that large
    return {.end = End::out_of_memory};
  }
  if (question_.prunes) {
    const auto known = products_.find(work_of(at));
    if (is_beaten(at, known == products_.end() ? SimDuration{} : known->second)) {
      return {.end = End::slower};
    }
    Bytes room = run.gpu.spec.total;
    for (const OutsideItem& item : outside_items(run.gpu, {})) {
      room = room - item.size;
    }
    room = run.limit ? std::min(room, *run.limit) : room;
    const bool swaps = run.policy.base == "swap";  // keeps blocks on the host
    if (!swaps && least_states(run, at) > room) {
      return {.end = End::out_of_memory};
    }
  }
  try {
    if (question_.prunes) {
      if (auto decided = short_outcome(at, run)) {
        return *std::move(decided);
      }
    }
    return full_outcome(at, run);
  } catch (const Fault& fault) {
    if (fault.code() != ErrorCode::unsupported) {
      throw;
    }
    return {.end = End::not_modelled, .reason = fault.what()};
  }
}

void Search::take(Outcome outcome, const Combination& at) {
  if (outcome.products) {
    products_.emplace(work_of(at), *outcome.products);
  }
  switch (outcome.end) {
    case End::out_of_memory:
      ++found_.out_of_memory;
      return;
    case End::slower:
      ++found_.slower;
      return;
    case End::not_modelled:
      if (found_.not_modelled++ == 0) {
        found_.not_modelled_because = std::move(outcome.reason);
      }
      return;
    case End::fits:
      break;
  }
  ++found_.fitting;
  Best& best = best_[way_of(at)];
  auto& place = outcome.candidate.verdict == Verdict::fits ? best.fitting : best.tight;
  if (!place || outcome.candidate.step < place->step) {  // ties: the first of the grid
    place = std::move(outcome.candidate);
  }
}

void Search::find_last_key() {
  std::vector<Key> keys;
  for (const auto& [way, best] : best_) {
    if (best.fitting) {
      keys.push_back(key_of(best.fitting->at.world, best.fitting->step));
    }
  }
  std::sort(keys.begin(), keys.end());
  if (keys.size() >= question_.top) {
    last_ = keys[question_.top - 1];
  }
}

PlanAnswer Search::answer(const OnCombination& heard) {
  constexpr std::size_t kWave = 16;
  for (std::size_t from = 0; from < all_.size(); from += kWave) {
    const std::size_t count = std::min(kWave, all_.size() - from);
    std::vector<Outcome> outcomes(count);
    run_jobs(count, 0, [&](std::size_t i) { outcomes[i] = outcome(all_[from + i]); });
    for (std::size_t i = 0; i < count; ++i) {
      take(std::move(outcomes[i]), all_[from + i]);
    }
    if (question_.prunes) {
      find_last_key();
    }
    if (heard) {
      heard(from + count, all_.size());
    }
  }
  found_.question = question_;
  found_.combinations = static_cast<std::int64_t>(all_.size());
  if (found_.not_modelled == found_.combinations && found_.combinations > 0) {
    throw Fault{found_.not_modelled_because};
  }
  for (auto& [way, best] : best_) {
    // One that is tight and no faster helps nobody.
    if (best.tight && (!best.fitting || best.tight->step < best.fitting->step)) {
      found_.candidates.push_back(*std::move(best.tight));
    }
    if (best.fitting) {
      found_.candidates.push_back(*std::move(best.fitting));
    }
  }
  // Ties: in the order of the ways.
  std::stable_sort(found_.candidates.begin(), found_.candidates.end(),
                   [this](const Candidate& a, const Candidate& b) {
                     return key_of(a.at.world, a.step) < key_of(b.at.world, b.step);
                   });
  found_.candidates.resize(std::min(found_.candidates.size(), question_.top));
  return std::move(found_);
}

}  // namespace

PlanAnswer answer(const PlanQuestion& question, const OnCombination& heard) {
  return Search{question}.answer(heard);
}

}  // namespace peakcast::app
