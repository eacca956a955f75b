#include <optional>
#include <string>

#include <fmt/format.h>

#include "sim/app/cards.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/host_memory.hpp"
#include "sim/app/predict_answer.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/trace/byte_source.hpp"

namespace peakcast::app {

namespace {

int predict_captured(const CommandLine& line, RunFlags& flags, const EngineFlags& engine,
                     const DrawnFiles& files) {
  const CaptureAnswer found = capture_as_pytorch(line, flags, engine);
  if (files.any()) {
    files.write(json_report(line, found, capture_writers()), drawn_ranks(found));
  }
  std::string text = written(line, found, capture_writers());
  if (line.console().format == Format::text) {
    text = captured_text(flags, engine, found) + text;
  }
  write_stdout(text);
  return found.fits() ? kFits : kDoesNotFit;
}

/// People get the verdict first: the search for advice takes longer.
void write_answer(const CommandLine& line, PredictAnswer& found, const Margin& margin,
                  bool advise_always, const DrawnFiles& files) {
  const bool people = line.console().format == Format::text;
  if (people) {
    write_stdout(written(line, found, predict_writers()));
  }
  if (advise_always || found.verdict != Verdict::fits) {
    found.advice = advise(found.run, found.evidence, margin);
    if (people) {
      write_stdout(coloured(advice_text(*found.advice)));
    }
  }
  if (!people) {
    write_stdout(written(line, found, predict_writers()));
  }
  if (files.any()) {
    files.write(json_report(line, found, predict_writers()),
                {drawn_run(found.run, Time::simulated)});
  }
}

/// Exit status 0 when the run fits on one of them.
int predict_cards(const CommandLine& line, RunFlags& flags, const EngineFlags& engine,
                  const Margin& margin) {
  for (const char* const flag : {"advise", "timeline", "report"}) {
    if (line.given(flag)) {
      throw Fault{fmt::format("--{} is for one card: --gpu {}", flag, flags.spec().gpu)};
    }
  }
  const auto found = engine.natively([&] { return predict_on_cards(flags.runs(), margin); });
  if (!found) {
    throw Fault{"the captured engine takes one card: name it by --gpu"};
  }
  write_stdout(written(line, *found, predict_cards_writers()));
  return found->any_fits() ? kFits : kDoesNotFit;
}

}  // namespace

int run_predict(std::span<const std::string> words) {
  CommandLine line{
      {"predict",
       "Whether a training run fits on a card, and what takes the memory. Exit status 0 "
       "when it does, of several cards on one of them",
       "predict --model bert-large --batch 16 --seq 512 --precision bf16-amp --gpu "
       "a100-40g"}};
  RunFlags flags{line};
  EngineFlags engine{line};
  const LoaderFlags loader{line};
  PredictQuestion question;
  declare_margin(line, question.margin);
  bool advise_always = false;
  line.flag("advise", advise_always,
            "search for changes that help, whatever the verdict (always done unless it fits)");
  line.text("timeline", "FILE", question.timeline,
            "write streams and memory over time, for Perfetto or chrome://tracing");
  line.flag("force", question.overwrites, "overwrite the timeline where it is there");
  DrawnFiles files;
  files.declare_report(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  if (!question.timeline.empty()) {
    static_cast<void>(value_or_throw(may_write(question.timeline, question.overwrites)));
  }
  static_cast<void>(flags.one_policy("predict"));
  question.loader = loader.loader();
  if (flags.several_cards()) {
    if (question.loader) {
      throw Fault{"what the host needs is told for one card: --gpu names several"};
    }
    return predict_cards(line, flags, engine, question.margin);
  }
  auto native = engine.natively([&] {
    question.run = flags.run();
    return answer(question);
  });
  files.overwrites = question.overwrites;
  if (!native) {
    if (question.loader) {
      line.console().warn("what the host needs is not told of a captured run");
    }
    files.timeline = question.timeline;
    return predict_captured(line, flags, engine, files);
  }
  write_answer(line, *native, question.margin, advise_always, files);
  return native->fits() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
