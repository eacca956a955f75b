#pragma once

#include <stdexcept>

#include "sim/app/console.hpp"

namespace peakcast::app {

/// The capture (console.hpp) of the host that called the command on this thread; null: the command
/// is a program's, and output goes where a program's goes.
[[nodiscard]] Capture* host_capture();

/// A helper thread's share in the capture of the thread that it works for (null: none), for as long
/// as it lives.
class SharedCapture {
 public:
  explicit SharedCapture(Capture* of_caller);
  ~SharedCapture();
  SharedCapture(const SharedCapture&) = delete;
  SharedCapture& operator=(const SharedCapture&) = delete;
};

/// What was asked runs a program, or code that is not ours, and so cannot run inside a host's
/// process: a host starts the program peakcast with the same words instead.
class NeedsProcess : public std::runtime_error {
 public:
  NeedsProcess() : std::runtime_error{"this needs a process of its own"} {}
};

}  // namespace peakcast::app
