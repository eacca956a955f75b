#include "sim/app/remedies.hpp"

#include <utility>

#include <fmt/format.h>

#include "sim/app/prediction.hpp"

namespace peakcast::app {
namespace {

Remedy try_out(std::string flags, const Run& run, const Trace& trace) {
  Remedy remedy;
  remedy.flags = std::move(flags);
  remedy.fits = !predict(run, trace, Time::none).report.oom;
  remedy.needs = unbounded_need(run, trace);
  return remedy;
}

}  // namespace

std::vector<Remedy> find_remedies(const Run& run, const Trace& trace) {
  std::vector<Remedy> remedies;
  constexpr std::string_view kExpandable = "expandable_segments";
  if (run.policy.is_pytorch() &&
      (run.alloc_conf + run.policy.settings).find(kExpandable) == std::string::npos) {
    Run changed = run;
    changed.alloc_conf += changed.alloc_conf.empty() ? "" : ",";
    changed.alloc_conf += std::string{kExpandable} + ":True";
    remedies.push_back(try_out("--alloc-conf " + changed.alloc_conf, changed, trace));
  }
  const auto try_program = [&](std::string flags, const Run& changed) {
    remedies.push_back(try_out(std::move(flags), changed, program_of(changed, Time::none)));
  };
  if (run.spec.attention == Attention::eager) {
    Run changed = run;
    changed.spec.attention = Attention::sdpa;
    try_program("--attention sdpa", changed);
  }
  if (run.spec.optimizer == OptimizerKind::adamw) {
    Run changed = run;
    changed.spec.optimizer = OptimizerKind::adamw_fused;
    try_program("--optimizer adamw-fused", changed);
  }
  if (run.spec.checkpoint == Checkpoint::none) {
    Run changed = run;
    changed.spec.checkpoint = Checkpoint::full;
    try_program("--checkpoint full", changed);
  }
  // The same tokens per step in more, smaller micro-batches.
  Run changed = run;
  while (changed.spec.shapes.size() == 1 && changed.spec.shapes.front().batch > 1) {
    BatchShape& shape = changed.spec.shapes.front();
    shape.batch = (shape.batch + 1) / 2;
    changed.spec.accumulate *= 2;
    Remedy remedy =
        try_out(fmt::format("--batch {} --accumulate {}", shape.batch, changed.spec.accumulate),
                changed, program_of(changed, Time::none));
    const bool last = remedy.fits || shape.batch == 1;
    if (last) {
      remedies.push_back(std::move(remedy));
      break;
    }
  }
  return remedies;
}

}  // namespace peakcast::app
