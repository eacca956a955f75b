#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/capture_answer.hpp"
#include "sim/app/command.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

struct CaptureTrial {
  bool fits{};
  Bytes peak_reserved{};
  std::optional<OomAnswer> oom{};
};

/// `fit -- PROGRAM with {}`: how large may what stands for {} be?
struct CaptureFit {
  CaptureQuestion question{};
  std::string vary{"batch"};
  std::int64_t max{256};
  std::int64_t step{1};
  // Found.
  std::map<std::int64_t, CaptureTrial> trials{};
  std::optional<std::int64_t> largest_fit{};
  std::optional<std::int64_t> first_oom{};
};

std::vector<std::string> with_value(const std::vector<std::string>& program, std::int64_t value) {
  std::vector<std::string> out = program;
  for (std::string& word : out) {
    for (std::size_t at = word.find("{}"); at != std::string::npos; at = word.find("{}", at)) {
      word.replace(at, 2, std::to_string(value));
    }
  }
  return out;
}

/// Throws Fault when the program fails by itself, or is interrupted: that is no answer.
CaptureTrial run_trial(const CaptureFit& fit, std::int64_t value) {
  CaptureQuestion question = fit.question;
  question.program = with_value(question.program, value);
  const CaptureAnswer captured = answer(question);
  if (captured.end.interrupted) {
    throw Fault{"interrupted"};
  }
  if (captured.runs.empty() || (captured.end.status != 0 && captured.fits())) {
    throw Fault{fmt::format("with {} {}, {} ended with status {} and did not run out of memory",
                            fit.vary, value, question.program.front(), captured.end.status)};
  }
  CaptureTrial trial{.fits = captured.fits()};
  for (const CaptureRunAnswer& run : captured.runs) {
    trial.peak_reserved = std::max(trial.peak_reserved, Bytes{run.report.statistics.reserved.peak});
    if (!trial.oom) {
      trial.oom = run.oom;
    }
  }
  return trial;
}

/// Bisects, taking for granted that more needs more.
void search(CaptureFit& fit, const Console& console) {
  std::int64_t low = 0;
  std::int64_t high = fit.max / fit.step + 1;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    const std::int64_t value = middle * fit.step;
    const CaptureTrial& trial = fit.trials.emplace(value, run_trial(fit, value)).first->second;
    console.detail(fmt::format("{}: {}, reserved {}", value, trial.fits ? "fits" : "out of memory",
                               size_text(trial.peak_reserved)));
    (trial.fits ? low : high) = middle;
  }
  if (low > 0) {
    fit.largest_fit = low * fit.step;
  }
  if (high <= fit.max / fit.step) {
    fit.first_oom = high * fit.step;
  }
}

Table trials_table(const CaptureFit& fit, bool in_bytes) {
  Table table{{{"value"},
               {"fits", Table::Align::left},
               {in_bytes ? "peak_reserved_bytes" : "peak reserved"}}};
  for (const auto& [value, trial] : fit.trials) {
    table.add_row(
        {std::to_string(value), trial.fits ? "yes" : "no",
         in_bytes ? std::to_string(trial.peak_reserved.count()) : size_text(trial.peak_reserved)});
  }
  return table;
}

Json number_or_null(const std::optional<std::int64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

void write_json(const CaptureFit& fit, Json& json) {
  json["inputs"]["program"] = fit.question.program;
  json["engine"] = "captured";
  json["vary"] = fit.vary;
  json["largest_fit"] = number_or_null(fit.largest_fit);
  json["first_oom"] = number_or_null(fit.first_oom);
  json["first_oom_at"] = oom_json(fit.first_oom ? fit.trials.at(*fit.first_oom).oom : std::nullopt);
  json["trials"] = Json::array();
  for (const auto& [value, trial] : fit.trials) {
    json["trials"].push_back({{"value", value},
                              {"fits", trial.fits},
                              {"peak_reserved_bytes", trial.peak_reserved.count()}});
  }
}

std::string write_csv(const CaptureFit& fit) { return trials_table(fit, true).csv(); }

std::string write_text(const CaptureFit& fit) {
  std::string text;
  if (fit.largest_fit) {
    text += fmt::format("FITS up to {} {}{}\n", fit.vary, *fit.largest_fit,
                        fit.first_oom ? "" : " (--max): there may be room for more");
  } else {
    text += fmt::format("NOTHING FITS: no {} up to {}\n", fit.vary, fit.max / fit.step * fit.step);
  }
  if (fit.first_oom) {
    const OomAnswer& oom = *fit.trials.at(*fit.first_oom).oom;
    text += fmt::format("{} {} runs out of memory {}: {}\n", fit.vary, *fit.first_oom,
                        oom_place(oom), oom.message);
  }
  return text + "\n" + trials_table(fit, false).text();
}

}  // namespace

int run_fit_capture(std::span<const std::string> words) {
  CaptureFit fit;
  fit.question.program = program_of(words);
  fit.question.quiet = true;
  CommandLine line{{"fit", "The largest value for which a program fits on an emulated card",
                    "fit --vary batch --max 64 --gpu l4-24g -- python train.py --batch {}"}};
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  line.text("vary", "NAME", fit.vary, "what {} stands for in the program's words");
  line.number("max", fit.max, "the largest value to try", 1, kMost);
  line.number("step", fit.step, "only multiples of this are tried", 1, kMost);
  fit.question.declare(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (fit.step > fit.max) {
    throw Fault{fmt::format("--step {} is above --max {}", fit.step, fit.max)};
  }
  if (with_value(fit.question.program, 1) == fit.question.program) {
    throw Fault{"no {} among the program's words: it is what --vary stands for"};
  }
  search(fit, line.console());
  constexpr Writers<CaptureFit> kWriters{.json = write_json, .csv = write_csv, .text = write_text};
  write_stdout(written(line, fit, kWriters));
  return fit.largest_fit ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
