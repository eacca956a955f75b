#pragma once

#include <string>

#include "sim/trace/read_trace.hpp"

namespace peakcast::app {

/// The trace in the file `path`; "-" is what a host gave (see Capture), else stdin. Throws Fault.
[[nodiscard]] LoadedTrace load_trace(const std::string& path, const ReadOptions& options = {});

}  // namespace peakcast::app
