#pragma once

#include <cstddef>
#include <functional>

namespace peakcast::app {

/// Calls `job(0)` ... `job(count - 1)` on up to `threads` threads (0: as many as the machine has).
/// Jobs are independent and leave their result by index, so the order in which they ran shows
/// nowhere. An exception of a job is thrown again here: that of the lowest index; jobs that have
/// not begun by then never do. What jobs write goes where this thread's output goes.
void run_jobs(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& job);

}  // namespace peakcast::app
