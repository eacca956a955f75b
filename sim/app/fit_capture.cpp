#include "sim/app/fit_capture.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

CaptureTrial trial_of(const CaptureFit& fit, std::int64_t value, const CaptureAnswer& captured) {
  if (captured.end.interrupted) {
    throw Fault{"interrupted"};
  }
  if (captured.runs.empty() || (captured.end.status != 0 && captured.fits())) {
    throw Fault{fmt::format("with {} {}, {} ended with status {} and did not run out of memory",
                            fit.vary, value, captured.question.program.front(),
                            captured.end.status)};
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
  if (!fit.program.empty()) {
    json["inputs"]["program"] = fit.program;
  }
  json["engine"] = "captured";
  json["vary"] = fit.vary;
  json["largest_fit"] = number_or_null(fit.largest_fit());
  if (fit.fewest) {
    json["smallest_fit"] = number_or_null(fit.limit);
  }
  json["first_oom"] = number_or_null(fit.first_oom);
  json["first_oom_at"] = oom_json(fit.first_oom ? fit.trials.at(*fit.first_oom).oom : std::nullopt);
  json["every_step_tried"] = static_cast<std::int64_t>(fit.trials.size()) == fit.max / fit.step;
  json["trials"] = Json::array();
  for (const auto& [value, trial] : fit.trials) {
    json["trials"].push_back({{"value", value},
                              {"fits", trial.fits},
                              {"peak_reserved_bytes", trial.peak_reserved.count()}});
  }
}

std::string write_csv(const CaptureFit& fit) { return trials_table(fit, true).csv(); }

std::string write_text(const CaptureFit& fit) {
  std::string text = fit.subject;
  if (!fit.limit) {
    text += fmt::format("NOTHING FITS: no {} up to {}\n", fit.vary, fit.max / fit.step * fit.step);
  } else if (fit.fewest) {
    text += fmt::format("FITS from {} {} on\n", fit.vary, *fit.limit);
  } else {
    text += fmt::format("FITS up to {} {}{}\n", fit.vary, *fit.limit,
                        fit.first_oom ? "" : " (--max): there may be room for more");
  }
  if (fit.first_oom) {
    const OomAnswer& oom = *fit.trials.at(*fit.first_oom).oom;
    text += folded(fmt::format("{} {} runs out of memory {}:\n{}\n", fit.vary, *fit.first_oom,
                               oom_place(oom), oom.message));
  }
  return text + "found by bisection\n\n" + trials_table(fit, false).text();
}

}  // namespace

std::optional<std::int64_t> CaptureFit::largest_fit() const {
  return limit && fewest ? max / step * step : limit;
}

void search(CaptureFit& fit, const std::function<CaptureAnswer(std::int64_t)>& capture,
            const Console& console) {
  const std::int64_t count = fit.max / fit.step;
  // Steps away from the easy side, from 1 on.
  const auto value_of = [&](std::int64_t step) {
    return (fit.fewest ? count + 1 - step : step) * fit.step;
  };
  std::int64_t low = 0;
  std::int64_t high = count + 1;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    const std::int64_t value = value_of(middle);
    const CaptureTrial& trial =
        fit.trials.emplace(value, trial_of(fit, value, capture(value))).first->second;
    console.detail(fmt::format("{}: {}, reserved {}", value, trial.fits ? "fits" : "out of memory",
                               size_text(trial.peak_reserved)));
    (trial.fits ? low : high) = middle;
  }
  if (low > 0) {
    fit.limit = value_of(low);
  }
  if (high <= count) {
    fit.first_oom = value_of(high);
  }
}

const Writers<CaptureFit>& capture_fit_writers() {
  static constexpr Writers<CaptureFit> kWriters{
      .json = write_json, .csv = write_csv, .text = write_text};
  return kWriters;
}

}  // namespace peakcast::app
