#pragma once

#include <string>

#include "sim/core/error.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast::testing {

/// The run that a recording's JSON describes (its `scenario`, `per_iter` and `device`), as a
/// RunSpec: model and overrides, precision, attention, optimizer, and the shape of every iteration.
[[nodiscard]] Expected<RunSpec> recorded_run(const std::string& json_path);

}  // namespace peakcast::testing
