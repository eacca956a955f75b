#pragma once

namespace peakcast::capture {

/// Runs hooks.py in the process's Python, once, as soon as it has PyTorch. Nothing happens in a
/// process without Python. The machine's lock is not held.
void install_python_hooks();

}  // namespace peakcast::capture
