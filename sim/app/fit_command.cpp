#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/cards.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/fit_answer.hpp"
#include "sim/app/fit_capture.hpp"
#include "sim/app/run_flags.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {
namespace {

constexpr std::array<std::pair<std::string_view, Vary>, 3> kVaries{
    {{"batch", Vary::batch}, {"seq", Vary::seq}, {"world", Vary::world}}};

/// Throws Fault: flags that contradict one another.
void check_flags(Vary vary, const CommandLine& line, const RunFlags& flags) {
  if (line.given("batches") && vary != Vary::world) {
    throw Fault{fmt::format("--batches and --vary {}: give one of them", to_string(vary))};
  }
  static_cast<void>(flags.one_policy("fit"));
  if (vary == Vary::world && flags.given() && line.echo().at("parallel") == "none") {
    throw Fault{"--vary world needs --parallel"};
  }
}

void check_model(const FitQuestion& question) {
  if (question.vary == Vary::seq && question.run.model.family->positions == Positions::image) {
    throw Fault{"--vary seq: an image model's sequence is its patches (--set image_size=...)"};
  }
}

FitAnswer fit_natively(FitQuestion& question, RunFlags& flags, const Console& console) {
  question.run = flags.run();
  check_model(question);
  Progress progress{console, "fit"};
  return answer(question, [&](std::size_t done, std::size_t of) { progress.advance_to(done, of); });
}

int fit_captured(const FitQuestion& question, const CommandLine& line, RunFlags& flags,
                 const EngineFlags& engine, const DrawnFiles& files) {
  CaptureFit fit{.vary = std::string{to_string(question.vary)},
                 .max = question.max,
                 .step = question.step,
                 .fewest = question.vary == Vary::world};
  const auto capture = [&](std::int64_t value) {
    return capture_as_pytorch(line, flags, engine, {.changes = {{fit.vary, value}}});
  };
  std::optional<CaptureAnswer> last_fit;
  std::optional<CaptureAnswer> first_oom;
  const auto keep = [&](std::int64_t value) {
    CaptureAnswer found = capture(value);
    fit.subject = captured_text(flags, engine, found);
    if (files.any()) {  // a bisection ends beside the limit, on both of its sides
      (found.fits() ? last_fit : first_oom) = found;
    }
    return found;
  };
  search(fit, keep, line.console());
  if (files.any()) {
    std::vector<PageRun> runs;
    for (const auto* const found : {&last_fit, &first_oom}) {
      if (*found) {
        runs.push_back(drawn_ranks(**found).front());
        runs.back().name = found == &last_fit ? "fits" : "out of memory";
      }
    }
    files.write(json_report(line, fit, capture_fit_writers()), runs);
  }
  write_stdout(written(line, fit, capture_fit_writers()));
  return fit.limit ? kFits : kDoesNotFit;
}

/// Exit status 0 when something fits on one of them.
int fit_cards(FitQuestion& question, const CommandLine& line, RunFlags& flags,
              const EngineFlags& engine, const DrawnFiles& files) {
  if (files.any()) {
    throw Fault{fmt::format("--report is for one card: --gpu {}", flags.spec().gpu)};
  }
  const auto found = engine.natively([&] {
    const std::vector<Run> runs = flags.runs();
    question.run = runs.front();
    check_model(question);
    Progress progress{line.console(), "fit"};
    return fit_on_cards(runs, question,
                        [&](std::size_t done, std::size_t of) { progress.advance_to(done, of); });
  });
  if (!found) {
    throw Fault{"the captured engine takes one card: name it by --gpu"};
  }
  write_stdout(written(line, *found, fit_cards_writers()));
  return found->any_fits() ? kFits : kDoesNotFit;
}

}  // namespace

int run_fit(std::span<const std::string> words) {
  if (std::find(words.begin(), words.end(), "--") != words.end()) {
    return run_fit_capture(words);
  }
  CommandLine line{{"fit",
                    "The largest batch or sequence, or the fewest ranks, that fit on a card. Exit "
                    "status 0 when something does",
                    "fit --model bert-large --seq 512 --precision bf16-amp --gpu a100-40g --vary "
                    "batch --max 256"}};
  FitQuestion question;
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  line.choice<Vary>("vary", kVaries, question.vary, "what is searched");
  line.length("max", question.max, "the largest value to try", 1, kMost);
  line.length("step", question.step, "only multiples of this are tried", 1, kMost);
  declare_margin(line, question.margin);
  RunFlags flags{line};
  const EngineFlags engine{line};
  DrawnFiles files;
  files.declare_report(line);
  files.declare_force(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  if (question.step > question.max) {
    throw Fault{fmt::format("--step {} is above --max {}", question.step, question.max)};
  }
  const std::string_view varied = to_string(question.vary);
  const Console& console = line.console();
  if (line.given(varied)) {
    console.note(
        fmt::format("--{} is what --vary {} tries: its value is not used", varied, varied));
  }
  check_flags(question.vary, line, flags);
  if (flags.several_cards()) {
    return fit_cards(question, line, flags, engine, files);
  }
  const auto native = engine.natively([&] { return fit_natively(question, flags, console); });
  if (!native) {
    return fit_captured(question, line, flags, engine, files);
  }
  const FitAnswer& found = *native;
  if (files.any()) {
    std::vector<PageRun> runs;
    for (const auto& value : {found.limit, found.first_oom}) {
      if (value) {
        runs.push_back(drawn_run(with_varied(question.run, question.vary, *value), Time::none));
        runs.back().name = fmt::format("{} {}", varied, *value);
      }
    }
    files.write(json_report(line, found, fit_writers()), runs);
  }
  write_stdout(written(line, found, fit_writers()));
  return found.limit ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
