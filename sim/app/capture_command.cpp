#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/capture_answer.hpp"
#include "sim/app/command.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/trace_output.hpp"
#include "workloads/capture/assumed_values.hpp"

namespace peakcast::app {
namespace {

/// run.pkt for the first run, run.r1.pkt for rank 1, run.2.pkt for one that has no rank.
std::string path_of(const std::string& file, const capture::CapturedRun& run, std::size_t index) {
  if (index == 0) {
    return file;
  }
  const std::string tail =
      run.rank >= 0 ? fmt::format(".r{}", run.rank) : fmt::format(".{}", index);
  const std::size_t name = file.find_last_of('/') + 1;
  const std::size_t dot = file.find('.', name);
  return dot == std::string::npos ? file + tail : file.substr(0, dot) + tail + file.substr(dot);
}

/// What was given for a line that never asked it changed nothing, which is not what was wanted.
void name_unasked(const CommandLine& line, const CaptureAnswer& result) {
  for (const std::string& text : result.question.assumed) {
    const capture::AssumedValue given = value_or_throw(capture::parse_assumed_value(text));
    const bool asked =
        std::any_of(result.runs.begin(), result.runs.end(), [&given](const CaptureRunAnswer& run) {
          return std::any_of(run.run.assumed.begin(), run.run.assumed.end(),
                             [&given](const capture::Assumption& made) {
                               return given.is_for(made.question, made.site) &&
                                      made.answer.ends_with(capture::kAsGiven);
                             });
        });
    if (!asked) {
      line.console().warn(fmt::format("--assume {}: nothing was asked there", text));
    }
  }
}

}  // namespace

int run_capture(std::span<const std::string> words) {
  CaptureQuestion question;
  question.program = program_of(words);
  CommandLine line{{"capture", "What any PyTorch program takes on a card, run without one",
                    "capture --gpu h100-80g -o run.pkt -- python train.py --batch 8"}};
  question.declare(line);
  std::string file;
  line.text("output", "FILE", file, "write the trace, for 'peakcast replay'; -o for short");
  const TraceOutput output{line};
  DrawnFiles files;
  files.declare_report(line);
  files.declare_timeline(line);
  std::vector<std::string> spelled{words.begin(), words.end()};
  std::replace(spelled.begin(), spelled.end(), std::string{"-o"}, std::string{"--output"});
  if (const auto status = line.parse(spelled)) {
    return *status;
  }
  if (!line.given("alloc-conf")) {  // it is the program's own that read them
    question.alloc_conf = settings_of_environment();
  }
  question.quiet = line.console().format != Format::text;
  if (question.program.empty()) {
    throw Fault{"no program: it stands behind --, as in 'peakcast capture -- python train.py'"};
  }
  if (!file.empty()) {
    output.check_path(file);
  }
  const CaptureAnswer result = answer(question);
  static_cast<void>(settled(question.limit, result.gpu.spec.total));
  if (result.end.interrupted) {
    line.console().warn("interrupted: nothing is written");
    constexpr int kInterrupted = 130;
    return kInterrupted;
  }
  if (result.runs.empty()) {
    throw Fault{fmt::format("{} ended with status {} and allocated nothing on a card",
                            question.program.front(), result.end.status)};
  }
  for (std::size_t i = 0; i < result.runs.size() && !file.empty(); ++i) {
    const capture::CapturedRun& run = result.runs[i].run;
    output.write_beside_report(run.trace, path_of(file, run, i));
  }
  if (files.any()) {
    files.overwrites = output.overwrites();
    files.write(json_report(line, result, capture_writers()), drawn_ranks(result));
  }
  name_unasked(line, result);
  write_stdout(written(line, result, capture_writers()));
  if (result.end.status != 0 && result.fits()) {
    line.console().warn(fmt::format("the program itself failed: {} ended with status {}",
                                    question.program.front(), result.end.status));
    return kBadInput;
  }
  return result.fits() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
