#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/app/run_flags.hpp"
#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// A change of flags that was run in place of a run that does not fit.
struct Remedy {
  std::string flags{};           ///< what to add or replace on the command line
  bool fits{};                   ///< on the same card, under the same limit
  std::optional<Bytes> needs{};  ///< unbounded_need() of the changed run
};

/// Runs what may help `run`, whose program is `trace`: allocator settings, attention, optimizer,
/// checkpointing, smaller batches with accumulation (the first that fits, or the smallest), in this
/// order; only changes that apply. Cost: two replays and at most one program for each.
[[nodiscard]] std::vector<Remedy> find_remedies(const Run& run, const Trace& trace);

}  // namespace peakcast::app
