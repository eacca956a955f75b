#include "workloads/parallel/zero.hpp"

#include <unordered_set>

namespace peakcast::torch {

std::unique_ptr<DataParallel> make_zero(const RunSpec& spec, Module& model) {
  return spec.parallel == Parallel::zero3 ? make_zero3(spec, model) : make_zero12(spec, model);
}

std::vector<Dtype> communication_types(const RunSpec& spec, Module& model,
                                       const TensorList& parameters) {
  std::vector<Dtype> types;
  for (const Tensor& parameter : parameters) {
    types.push_back(parameter.dtype());
  }
  if (spec.precision != Precision::bf16_amp) {
    return types;
  }
  std::unordered_set<const TensorImpl*> lower;  // never iterated
  for (Module* module : model.modules()) {
    if (module->type_name() == "Linear" || module->type_name() == "Conv2d") {
      for (const Module::Named& parameter : module->own_parameters) {
        lower.insert(parameter.tensor.impl());
      }
    }
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (lower.contains(parameters[i].impl())) {
      types[i] = Dtype::bfloat16;
    }
  }
  return types;
}

}  // namespace peakcast::torch
