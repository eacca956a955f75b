#include "workloads/models/language_model.hpp"

#include <utility>

namespace peakcast::models {

torch::Tensor Batch::at(std::string_view name) const {
  for (const Item& item : items) {
    if (item.name == name) {
      return item.tensor;
    }
  }
  return {};
}

ModelOutput LanguageModel::operator()(const Batch& batch) {
  if (pre_hooks.empty() && hooks.empty()) {
    return call(batch);
  }
  Batch arguments = batch;
  std::vector<torch::Tensor*> tensors;
  for (Batch::Item& item : arguments.items) {
    tensors.push_back(&item.tensor);
  }
  run_pre_hooks(tensors);
  ModelOutput output = call(arguments);
  torch::TensorList outputs = output.take_tensors();
  run_hooks(outputs);
  output.put_tensors(std::move(outputs));
  return output;
}

torch::TensorList ModelOutput::take_tensors() {
  torch::TensorList tensors;
  tensors.push_back(std::move(loss));
  tensors.push_back(std::move(aux_loss));
  tensors.push_back(std::move(logits));
  for (torch::Tensor& other : others) {
    tensors.push_back(std::move(other));
  }
  others.clear();
  return tensors;
}

void ModelOutput::put_tensors(torch::TensorList tensors) {
  loss = std::move(tensors[0]);
  aux_loss = std::move(tensors[1]);
  logits = std::move(tensors[2]);
  others.clear();
  for (std::size_t i = 3; i < tensors.size(); ++i) {
    others.push_back(std::move(tensors[i]));
  }
}

}  // namespace peakcast::models
