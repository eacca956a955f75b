#include "workloads/torch/module.hpp"

#include <algorithm>
#include <unordered_set>

namespace peakcast::torch {

Module::Module(Module* parent, std::string_view name) : name_{name} {
  if (parent != nullptr) {
    parent->children.push_back({name_, this});
  }
}

Tensor Module::add_parameter(std::string_view name, const Shape& sizes) {
  Tensor parameter = host_tensor(sizes, Dtype::float32);
  parameter.set_requires_grad(true);
  own_parameters.push_back({std::string{name}, parameter});
  return parameter;
}

Tensor Module::add_buffer(std::string_view name, const Shape& sizes, Dtype dtype) {
  Tensor buffer = host_tensor(sizes, dtype);
  own_buffers.push_back({std::string{name}, buffer});
  return buffer;
}

void Module::to_cuda() {
  for (const Child& child : children) {
    child.module->to_cuda();
  }
  for (std::vector<Named>* list : {&own_parameters, &own_buffers}) {
    for (Named& entry : *list) {
      if (entry.tensor.device() == Device::cpu) {
        if (!bring_to_cuda(entry)) {
          entry.tensor.set_data(to_device(entry.tensor, Category::parameter));
        }
      }
    }
  }
}

namespace {

void cast_on_host(std::vector<Module::Named>& list, Dtype dtype) {
  for (Module::Named& entry : list) {
    if (is_floating(entry.tensor.dtype()) && entry.tensor.dtype() != dtype &&
        entry.tensor.device() == Device::cpu) {
      entry.tensor.set_data(host_tensor(entry.tensor.sizes(), dtype));
    }
  }
}

}  // namespace

void Module::to(Dtype dtype) {
  for (const Child& child : children) {
    child.module->to(dtype);
  }
  cast_on_host(own_parameters, dtype);
  cast_on_host(own_buffers, dtype);
}

void Module::parameters_to(Dtype dtype) {
  for (Module* module : modules()) {
    cast_on_host(module->own_parameters, dtype);
  }
}

std::vector<Module*> Module::modules() {
  std::vector<Module*> found{this};
  for (const Child& child : children) {
    for (Module* below : child.module->modules()) {
      found.push_back(below);
    }
  }
  return found;
}

std::vector<Module::Path> Module::named_modules() {
  std::vector<Path> found{{"", this}};
  for (const Child& child : children) {
    for (Path& below : child.module->named_modules()) {
      below.name = below.name.empty() ? child.name : child.name + "." + below.name;
      found.push_back(std::move(below));
    }
  }
  return found;
}

std::vector<Module::Named> Module::named_parameters() {
  std::vector<Named> found;
  std::unordered_set<const TensorImpl*> seen;  // never iterated
  for (Module* module : modules()) {
    for (const Named& entry : module->own_parameters) {
      if (seen.insert(entry.tensor.impl()).second) {
        found.push_back(entry);
      }
    }
  }
  return found;
}

TensorList Module::parameters() {
  TensorList found;
  for (Named& entry : named_parameters()) {
    found.push_back(std::move(entry.tensor));
  }
  return found;
}

void Module::run_pre_hooks(std::vector<Tensor*>& arguments) {
  for (std::size_t i = 0; i < pre_hooks.size(); ++i) {
    pre_hooks[i](*this, arguments);
  }
}

void Module::run_hooks(TensorList& outputs) {
  for (std::size_t i = 0; i < hooks.size(); ++i) {
    hooks[i](*this, outputs);
  }
}

Tensor FunctionModule::operator()(const Tensor& x) {
  if (pre_hooks.empty() && hooks.empty()) {
    return function_(x);
  }
  Tensor argument = x;
  std::vector<Tensor*> arguments{&argument};
  run_pre_hooks(arguments);
  TensorList outputs{function_(argument)};
  run_hooks(outputs);
  return std::move(outputs.front());
}

Linear::Linear(Module* parent, std::string_view name, std::int64_t in, std::int64_t out,
               bool with_bias)
    : ModuleOf{parent, name}, weight{add_parameter("weight", {out, in})} {
  if (with_bias) {
    bias = add_parameter("bias", {out});
  }
}

Linear::Linear(Module* parent, std::string_view name, const Tensor& own_weight,
               const Tensor& own_bias)
    : ModuleOf{parent, name}, weight{own_weight}, bias{own_bias} {
  own_parameters.push_back({"weight", weight});
  if (bias.defined()) {
    own_parameters.push_back({"bias", bias});
  }
}

LayerNorm::LayerNorm(Module* parent, std::string_view name, std::int64_t size, bool with_bias)
    : ModuleOf{parent, name}, weight{add_parameter("weight", {size})} {
  if (with_bias) {
    bias = add_parameter("bias", {size});
  }
}

Embedding::Embedding(Module* parent, std::string_view name, std::int64_t rows, std::int64_t size)
    : ModuleOf{parent, name}, weight{add_parameter("weight", {rows, size})} {}

}  // namespace peakcast::torch
