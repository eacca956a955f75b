#include "sim/app/predict_answer.hpp"

#include <algorithm>
#include <cstdint>
#include <sstream>

#include "sim/app/command.hpp"
#include "sim/report/timeline.hpp"
#include "sim/trace/byte_source.hpp"

namespace peakcast::app {

std::size_t PredictAnswer::finished_iterations() const {
  return oom ? static_cast<std::size_t>(std::max<std::int64_t>(0, oom->at.iteration))
             : prediction.report.iterations.size();
}

std::string_view bound_by(const TimeSplit& split) {
  const SimDuration idle = split.host + split.allocator;
  if (4 * idle > split.total()) {
    return split.allocator > split.host ? "allocator" : "host";
  }
  return split.communication > split.compute ? "communication" : "compute";
}

PredictAnswer answer(const PredictQuestion& question) {
  const Run& run = question.run;
  const auto program = program_of(run, Time::simulated);
  std::ostringstream timeline_text;
  std::optional<TimelineWriter> timeline;
  if (!question.timeline.empty()) {
    timeline.emplace(timeline_text, run.gpu.name);
  }
  PredictAnswer found{.run = run};
  found.prediction = predict(run, program, Time::simulated, timeline ? &*timeline : nullptr);
  if (timeline) {
    timeline->finish();
    static_cast<void>(
        value_or_throw(write_file(question.timeline, timeline_text.view(), question.overwrites)));
  }
  found.oom = oom_answer(found.prediction.report, program, run.gpu.spec, run.limit,
                         run.policy.is_pytorch());
  found.evidence = evidence_for(run);
  found.headroom = headroom(run, found.prediction, found.evidence, question.margin);
  found.verdict = verdict(found.prediction, found.headroom);
  if (question.loader) {
    found.host = host_memory(run, *question.loader);
  }
  return found;
}

}  // namespace peakcast::app
