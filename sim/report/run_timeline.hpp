#pragma once

#include <iosfwd>
#include <vector>

#include "sim/report/page.hpp"

namespace peakcast {

/// A timeline (see TimelineWriter) of what policies did: a process a run with counters of allocated
/// and reserved memory and of each category, instants where a request failed and where memory was
/// given back, phases and iterations as slices, and the blocks that live at the reserved peak, by
/// name, for as long as they live. Times are the run's; entries in order, a microsecond each, where
/// it has none. O(entries log entries).
void write_run_timeline(std::ostream& out, const std::vector<PageRun>& runs);

}  // namespace peakcast
