#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// No cache at all: every allocation is a cudaMalloc, every free a cudaFree, which waits for the
/// device. Blocks above 1 MiB take whole 2 MiB pages; smaller ones share them in steps of 512
/// bytes. Reserved memory is the pages.
/// Source: the driver as measured on an H100, driver 580.159.04 (driver costs program, lines
/// `granularity`).
/// Leaves out: nothing known.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_cuda_malloc(Device& device,
                                                                    Streams& streams,
                                                                    const PolicyOptions& options);

}  // namespace peakcast
