#pragma once

#include "sim/alloc/allocator.hpp"
#include "sim/core/error.hpp"

namespace peakcast {

/// What a policy promises about its heap beyond what all promise.
struct HeapRules {
  bool coalesces{};     ///< no two free blocks of a segment touch
  bool hides_memory{};  ///< it holds memory that the view cannot show (the driver's own pool)
};

/// The referee of a heap. It knows no policy: segments ascend and do not overlap; blocks tile their
/// segment; no block is empty, none holds less than was requested; and the sums are what the books
/// say: allocated, active (allocated or pending) and, unless hidden, reserved. The error names the
/// address. O(blocks).
[[nodiscard]] Expected<Ok> check_heap(const HeapView& heap, const Statistics& statistics,
                                      const HeapRules& rules = {});

}  // namespace peakcast
