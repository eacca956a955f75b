#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/evidence.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/sweep_rows.hpp"

namespace peakcast::app {
namespace {

void fill(SweepPoint& point, const ReplayReport& report, Bytes device) {
  point.peak_allocated = Bytes{report.statistics.allocated.peak};
  point.peak_reserved = Bytes{report.statistics.reserved.peak};
  point.peak_device = device;
  if (report.oom) {
    point.oom_iteration = report.oom->iteration;
    point.oom_phase = report.oom->phase;
  }
}

SweepPoint native_point(const Run& run, const Margin& margin) {
  const Program program = program_of(run, Time::simulated);
  const Prediction prediction = predict(run, program, Time::simulated);
  const ReplayReport& report = prediction.report;
  SweepPoint point{.headroom = headroom(run, prediction, evidence_for(run), margin),
                   .engine = "native"};
  fill(point, report, prediction.peak_device());
  point.verdict = verdict(prediction, point.headroom);
  if (!report.oom && !report.iterations.empty()) {
    point.last_iteration = report.iterations.back().duration;
  }
  return point;
}

/// Of the rank that takes most.
SweepPoint captured_point(const CaptureAnswer& captured) {
  const CaptureRunAnswer& worst = captured.worst();
  SweepPoint point{.verdict = captured.fits() ? Verdict::fits : Verdict::out_of_memory,
                   .engine = "captured"};
  fill(point, worst.report, captured.peak_device(worst));
  const std::size_t steps = worst.steps();
  if (!worst.report.oom && steps > 0 && steps <= worst.timed.iterations.size()) {
    point.last_iteration = worst.timed.iterations[steps - 1].duration;
  }
  point.headroom.spare = captured.room(worst);
  point.headroom.retries = worst.report.statistics.num_alloc_retries;
  return point;
}

SweepPoint answered(const SweepGrid& grid, std::size_t index) {
  CommandLine line{{"sweep", "one point of a sweep", "predict"}};
  RunFlags flags{line};
  const EngineFlags engine{line};
  Margin margin;
  declare_margin(line, margin);
  std::vector<std::string> words = grid.words_at(index);
  const std::string quiet = "--quiet";  // notes are not for every point
  if (std::find(words.begin(), words.end(), quiet) == words.end()) {
    words.push_back(quiet);
  }
  if (line.parse(words) || (!flags.given() && !line.given("program"))) {
    throw Fault{fmt::format("{}: a point needs \"model\"", grid.name())};
  }
  static_cast<void>(flags.one_policy("a point"));
  const auto native = engine.natively([&] { return native_point(flags.run(), margin); });
  return native ? *native : captured_point(capture_as_pytorch(line, flags, engine));
}

}  // namespace

SweepPoint sweep_point(const SweepGrid& grid, std::size_t index) {
  try {
    return answered(grid, index);
  } catch (const Fault& fault) {
    SweepPoint point{.error = fault.what()};
    std::replace(point.error.begin(), point.error.end(), '\n', ' ');  // a row is a line
    return point;
  }
}

}  // namespace peakcast::app
