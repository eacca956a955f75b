#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// TensorFlow's and XLA's best-fit-with-coalescing allocator, as it runs with allow_growth.
/// Requests round to 256 bytes. The smallest chunk that holds a request is taken, ties by address
/// (its 21 bins are walked in that order), and split when it is twice too large or 128 MiB would be
/// wasted. A region starts at 1 MiB (or the request) and each next one is twice as large; a region
/// that the driver refuses is retried at 9/10 of its size. When nothing helps, regions that are
/// wholly free go back (its garbage collection).
/// Settings: `growth:SIZE`, the first region; a large one stands for allow_growth off.
/// Source: TensorFlow's tsl/framework/bfc_allocator, re-described.
/// Leaves out: timestamps per chunk, merging of regions that happen to be adjacent, the wait for
/// other threads' frees; one heap per stream, where TensorFlow computes on one stream.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_bfc(Device& device, Streams& streams,
                                                            const PolicyOptions& options);

}  // namespace peakcast
