#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/fit_capture.hpp"

namespace peakcast::app {
namespace {

std::vector<std::string> with_value(const std::vector<std::string>& program, std::int64_t value) {
  std::vector<std::string> out = program;
  for (std::string& word : out) {
    for (std::size_t at = word.find("{}"); at != std::string::npos; at = word.find("{}", at)) {
      word.replace(at, 2, std::to_string(value));
    }
  }
  return out;
}

}  // namespace

/// `fit -- PROGRAM with {}`: how large may what stands for {} be?
int run_fit_capture(std::span<const std::string> words) {
  CaptureQuestion question{.quiet = true};
  question.program = program_of(words);
  CaptureFit fit{.program = question.program};
  CommandLine line{{"fit", "The largest value for which a program fits on an emulated card",
                    "fit --vary batch --max 64 --gpu l4-24g -- python train.py --batch {}"}};
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  line.text("vary", "NAME", fit.vary, "what {} stands for in the program's words");
  line.number("max", fit.max, "the largest value to try", 1, kMost);
  line.number("step", fit.step, "only multiples of this are tried", 1, kMost);
  question.declare(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (!line.given("alloc-conf")) {
    question.alloc_conf = settings_of_environment();
  }
  if (fit.step > fit.max) {
    throw Fault{fmt::format("--step {} is above --max {}", fit.step, fit.max)};
  }
  if (with_value(fit.program, 1) == fit.program) {
    throw Fault{"no {} among the program's words: it is what --vary stands for"};
  }
  const auto capture = [&](std::int64_t value) {
    CaptureQuestion trial = question;
    trial.program = with_value(fit.program, value);
    return answer(trial);
  };
  search(fit, capture, line.console());
  write_stdout(written(line, fit, capture_fit_writers()));
  return fit.limit ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
