#pragma once

#include <functional>
#include <string_view>

namespace peakcast::app {

/// `run`'s status. Exceptions stop here: they end in one line on stderr, under `program`'s name,
/// and kBadInput.
[[nodiscard]] int guarded(const std::function<int()>& run, std::string_view program = "peakcast");

/// The same in a process of its own, because a foreign policy runs in it (run_supervised): whatever
/// that does, the result is an exit status or one line with policy, request and cause. What was
/// written to stdout comes at the end, of a run that failed so only with `keeps_output`. Call it
/// before any thread is started.
[[nodiscard]] int supervised(const std::function<int()>& run, bool keeps_output = false,
                             std::string_view program = "peakcast");

}  // namespace peakcast::app
