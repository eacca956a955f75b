#pragma once

#include <string>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/capture_answer.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/engine/run_log.hpp"
#include "sim/report/page.hpp"

namespace peakcast::app {

/// What a page or a timeline shows of a policy's run over `program`.
[[nodiscard]] PageRun drawn(const Trace& program, const RunLog& log, const RecordedRun& run);

/// `run`, made again to be drawn: the same figures, for nothing is random. Throws Fault.
[[nodiscard]] PageRun drawn_run(const Run& run, Time time);
/// The same of a replay.
[[nodiscard]] PageRun drawn_replay(ReplayQuestion question);
/// The same of a trace that is there already.
[[nodiscard]] PageRun drawn_replay(ReplayQuestion question, const Trace& trace);

/// The same of a capture's ranks, the first few.
[[nodiscard]] std::vector<PageRun> drawn_ranks(const CaptureAnswer& result);

/// Where else a command's answer goes: the flags --report and --timeline.
struct DrawnFiles {
  std::string report{};
  std::string timeline{};
  bool overwrites{};
  void declare_report(CommandLine& line);
  void declare_timeline(CommandLine& line);
  void declare_force(CommandLine& line);
  [[nodiscard]] bool any() const { return !report.empty() || !timeline.empty(); }
  /// Writes what was asked for. `answer` is the command's JSON report.
  void write(const Json& answer, const std::vector<PageRun>& runs) const;
};

}  // namespace peakcast::app
