#pragma once

#include <cstdint>

#include "sim/core/units.hpp"
#include "workloads/torch/dtype.hpp"

namespace peakcast::torch {

/// A convolution whose stride is its kernel, as in patch embeddings: windows do not overlap.
struct ConvolutionShape {
  std::int64_t batch{};
  std::int64_t in_channels{};
  std::int64_t out_channels{};
  std::int64_t image{};    ///< pixels of the input, per channel
  std::int64_t window{};   ///< pixels of the kernel
  std::int64_t patches{};  ///< pixels of the output, per channel
};

struct ConvolutionWorkspace {
  Bytes forward{};
  Bytes weight_gradient{};
};

/// What cuDNN takes for the length of a call. Its choice of kernels is closed, so this is data
/// where it was measured (workloads/convolutions, which names its source), and a rule read off
/// those measurements elsewhere. O(rows of the table).
[[nodiscard]] ConvolutionWorkspace convolution_workspace(const ConvolutionShape& shape,
                                                         Dtype dtype);

}  // namespace peakcast::torch
