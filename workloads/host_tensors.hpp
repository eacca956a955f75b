#pragma once

#include <vector>

#include "sim/core/units.hpp"
#include "workloads/model_config.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast {

/// What a training process has in host memory before it goes to the card.
struct HostTensors {
  std::vector<Bytes> batch{};  ///< the tensors of the largest micro-batch
  Bytes model{};               ///< all parameters as they are built, in fp32
};

/// Precondition: `spec` and `config` have made a program.
[[nodiscard]] HostTensors host_tensors(const RunSpec& spec, const ModelConfig& config);

}  // namespace peakcast
