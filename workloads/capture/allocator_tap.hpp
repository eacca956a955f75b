#pragma once

#include <string>

namespace peakcast::capture {

/// Attaches to PyTorch's allocator, once: from then on its events go to the log as they happen.
/// Called when it first asks the card for memory, so nothing is missed. Inside a call of the
/// allocator, on its thread; the machine's lock is not held.
void tap_allocator();

}  // namespace peakcast::capture
