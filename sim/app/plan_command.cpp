#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/plan_answer.hpp"
#include "sim/app/run_flags.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {
namespace {

constexpr std::array<std::pair<std::string_view, PlanSort>, 2> kSorts{
    {{"time", PlanSort::time}, {"cards", PlanSort::cards}}};

constexpr std::int64_t kMostCombinations = 20'000;

/// What flags name is taken as it is; the rest is searched.
PlanAxes axes_of(const CommandLine& line, const RunFlags& flags, const Run& run,
                 std::int64_t global_batch, const std::string& worlds) {
  PlanAxes axes;
  auto parsed = parse_worlds(worlds, global_batch, run.gpu.rates.cards_per_node);
  if (!parsed) {
    throw Fault{fmt::format("--world: {}", to_string(parsed.error()))};
  }
  axes.worlds = *std::move(parsed);
  axes.splits = every_split();
  const RunSpec& said = flags.spec();
  if (line.given("parallel")) {
    std::erase_if(axes.splits, [&](const Split& split) {
      return split.parallel != said.parallel ||
             (line.given("shard") && split.shard != said.shard) ||
             (line.given("reshard-after-forward") &&
              split.reshard_after_forward != said.reshard_after_forward);
    });
    if (axes.splits.empty()) {  // --shard none
      axes.splits = {{said.parallel, said.shard, said.reshard_after_forward}};
    }
  }
  axes.checkpoints = {Checkpoint::none, Checkpoint::full};
  if (line.given("checkpoint")) {
    axes.checkpoints = {said.checkpoint};
  }
  axes.alloc_confs = {run.alloc_conf};
  if (!line.given("alloc-conf") && run.policy.is_pytorch() && run.policy.settings.empty()) {
    axes.alloc_confs.emplace_back("expandable_segments:True");
  }
  if (line.given("batch")) {
    axes.batch = run.spec.shapes.front().batch;
  }
  return axes;
}

/// Throws Fault: flags that leave nothing to search, or that the search decides.
void check_flags(const CommandLine& line, const RunFlags& flags) {
  if (!line.given("global-batch")) {
    throw Fault{"--global-batch is missing: the samples of one step over all cards"};
  }
  for (const char* const flag : {"accumulate", "batches", "rank"}) {
    if (line.given(flag)) {
      throw Fault{fmt::format("--{}: not with plan, which shares out --global-batch", flag)};
    }
  }
  if (flags.several_cards()) {
    throw Fault{"--gpu: plan takes one card"};
  }
  if (flags.policies().size() != 1) {
    throw Fault{"--policy: plan takes one policy"};
  }
}

}  // namespace

int run_plan(std::span<const std::string> words) {
  CommandLine line{{"plan",
                    "How many cards, and how to spread a run over them: searches --parallel, "
                    "--shard, --checkpoint, --batch with --accumulate and --alloc-conf, whichever "
                    "of them is not given. Exit status 0 when something fits",
                    "plan --model llama-3.1-70b --seq 4096 --global-batch 512 --gpu h100-80g "
                    "--world 8..512"}};
  RunFlags flags{line};
  PlanQuestion question;
  std::string worlds = "1..64";
  bool prunes = true;
  std::int64_t top = 10;
  line.number("global-batch", question.global_batch,
              fmt::format("samples a step, over all cards; at most {} micro-batches a step are "
                          "tried",
                          kMostMicroBatches),
              1, std::int64_t{1} << 24);
  line.text("world", "N..M|N,...", worlds,
            "numbers of cards: of a range those that divide the global batch and, beyond one node, "
            "are whole nodes");
  line.number("top", top, "how many answers", 1, 1000);
  line.choice<PlanSort>("sort", kSorts, question.sort, "the shortest step first, or fewest cards");
  declare_margin(line, question.margin);
  line.on_off("prune", prunes, "off: run also what cannot be among the answers (the same answers)");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  check_flags(line, flags);
  question.top = static_cast<std::size_t>(top);
  question.prunes = prunes;
  question.run = flags.run();
  question.axes = axes_of(line, flags, question.run, question.global_batch, worlds);
  const auto count =
      static_cast<std::int64_t>(combinations(question.axes, question.global_batch).size());
  if (count == 0) {
    throw Fault{
        "no combination of these flags: --batch must divide the samples of each card, and "
        "one card is not split"};
  }
  if (count > kMostCombinations) {
    throw Fault{fmt::format("--world: {} combinations, more than {}", count, kMostCombinations)};
  }
  const PlanAnswer found = [&] {
    Progress progress{line.console(), "plan"};
    return answer(question,
                  [&](std::size_t done, std::size_t of) { progress.advance_to(done, of); });
  }();
  write_stdout(written(line, found, plan_writers()));
  return found.fits() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
