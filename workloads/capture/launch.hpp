#pragma once

#include <string_view>

#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/machine.hpp"

namespace peakcast::capture {

/// A launch of the kernel `name` (mangled): takes its time on the card, runs nothing. A
/// cudaError_t.
int launch_kernel(std::string_view name, const Dim3& grid, const Dim3& block, void** arguments,
                  StreamHandle stream);

}  // namespace peakcast::capture
