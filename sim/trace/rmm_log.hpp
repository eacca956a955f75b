#pragma once

#include <string>

#include "sim/core/error.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// RMM's allocation log: the header `Thread,Time,Action,Pointer,Size,Stream`, then one row per
/// event in the order of execution. Actions `allocate`, `free`, `allocate failure` (an attempt).
/// Time is HH:MM:SS.ffffff or HH:MM:SS:ffffff and wraps at midnight; Pointer 0x… or (nil); Stream
/// hex, with or without 0x. Rows of size 0 move no memory and are left out. No recording results:
/// what RMM's resources did inside is not in the log. A free of an unknown pointer is an error with
/// its line. O(bytes).
[[nodiscard]] Expected<Trace> read_rmm_log(Window& window);

/// The trace's allocations and frees as such a log, thread 0. Pointers are the recorded addresses,
/// or, without a recording, addresses that are never used twice; without times, the time is the
/// op's index in microseconds.
[[nodiscard]] std::string rmm_log(const Trace& trace);

}  // namespace peakcast
