#pragma once

namespace peakcast::capture {

/// Runs hooks.py in the process's Python, once, as soon as it has PyTorch. Nothing happens in a
/// process without Python. The machine's lock is not held.
void install_python_hooks();
/// The same for ranks.py, where partners exist only in name: while PyTorch is being loaded, before
/// a program can ask for a store.
void install_rank_hooks();

}  // namespace peakcast::capture
