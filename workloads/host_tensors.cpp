#include "workloads/host_tensors.hpp"

#include <utility>

#include "sim/trace/trace.hpp"
#include "workloads/family.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/torch/runtime.hpp"

namespace peakcast {

HostTensors host_tensors(const RunSpec& spec, const ModelConfig& config) {
  Trace unused;
  torch::Runtime runtime{unused, {}};
  const torch::RuntimeScope scope{runtime};
  const auto model = config.family->make(config, spec.attention);
  model->target_seq = spec.target_seq;
  HostTensors found;
  for (const torch::Tensor& parameter : model->parameters()) {
    found.model += parameter.nbytes();
  }
  Bytes largest;
  for (const BatchShape& shape : spec.shapes) {
    std::vector<Bytes> tensors;
    Bytes sum;
    for (const auto& input : model->inputs(shape)) {
      if (input.name != "token_type_ids" || spec.token_types) {
        tensors.push_back(torch::host_tensor(input.sizes, input.dtype).nbytes());
        sum += tensors.back();
      }
    }
    if (sum > largest) {
      largest = sum;
      found.batch = std::move(tensors);
    }
  }
  return found;
}

}  // namespace peakcast
