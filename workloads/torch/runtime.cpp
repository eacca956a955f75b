#include "workloads/torch/runtime.hpp"

#include <utility>

#include "workloads/torch/autograd.hpp"
#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

/// Per thread, so that runs on several threads do not meet.
thread_local Runtime* current_runtime = nullptr;

}  // namespace

Runtime::Runtime(Trace& trace, const RuntimeOptions& options)
    : TraceWriter{trace, options.cost_model, options.record_graph},
      libraries{*this, options.gpu},
      gpu_{options.gpu},
      engine_{std::make_unique<Engine>()} {}

Runtime::~Runtime() = default;

Runtime& Runtime::current() {
  check(current_runtime != nullptr, "an operator needs a RuntimeScope");
  return *current_runtime;
}

void Runtime::launch(const KernelCost& cost) {
  if (OpGraph* recorded = graph()) {
    recorded->on_launch(cost.flops, cost.bytes);
  }
  if (cost.kind == KernelCost::Kind::elementwise) {
    libraries.use_kernels();
  } else if (cost.kind == KernelCost::Kind::reduction ||
             cost.kind == KernelCost::Kind::column_reduction) {
    libraries.use_device_heap();
  }
  write_launch(cost);
}

void Runtime::collective(const CollectiveCost& cost) {
  libraries.use_kernels();
  libraries.use_nccl(cost.world);
  write_collective(cost);
}

RuntimeScope::RuntimeScope(Runtime& runtime) : before_{std::exchange(current_runtime, &runtime)} {}
RuntimeScope::~RuntimeScope() { current_runtime = before_; }

OpScope::OpScope(const char* name, std::initializer_list<const Tensor*> inputs) : OpScope{name} {
  if (OpGraph* graph = Runtime::current().graph()) {
    in_graph_ = true;
    vertex_before_ = graph->begin_op(name);
    for (const Tensor* input : inputs) {
      if (input->defined()) {
        graph->add_input(*input);
      }
    }
  }
}

OpScope::~OpScope() {
  if (in_graph_) {
    if (OpGraph* graph = Runtime::current().graph()) {
      graph->end_op(vertex_before_);
    }
  }
}

// -- autocast -------------------------------------------------------------------------------------

AutocastScope::AutocastScope(bool enabled, Dtype dtype) {
  Runtime::Autocast& state = Runtime::current().autocast;
  enabled_before_ = std::exchange(state.enabled, enabled);
  dtype_before_ = std::exchange(state.dtype, dtype);
  ++state.nesting;
}

AutocastScope::~AutocastScope() {
  Runtime::Autocast& state = Runtime::current().autocast;
  if (--state.nesting == 0) {
    // PyTorch clears a hash map keyed by address, so its order of frees is nobody's rule; ours is
    // the order in which the copies were made.
    auto cache = std::move(state.cache);
    state.cache.clear();
    state.index.clear();
    for (auto& [parameter, copy] : cache) {
      copy.reset();
    }
  }
  state.enabled = enabled_before_;
  state.dtype = dtype_before_;
}

Tensor autocast_lower(const Tensor& tensor) {
  Runtime::Autocast& state = Runtime::current().autocast;
  if (!tensor.defined() || !is_floating(tensor.dtype()) || tensor.dtype() == Dtype::float64 ||
      tensor.dtype() == state.dtype || tensor.device() != Device::cuda) {
    return tensor;
  }
  const bool cacheable = state.cache_enabled && state.dtype != Dtype::float32 &&
                         tensor.dtype() == Dtype::float32 && tensor.requires_grad() &&
                         tensor.is_leaf() && !tensor.is_view();
  if (!cacheable) {
    return tensor.to(state.dtype);
  }
  const auto found = state.index.find(tensor.impl());
  if (found != state.index.end()) {
    return state.cache[found->second].second;
  }
  Tensor copy = tensor.to(state.dtype);
  state.index.emplace(tensor.impl(), state.cache.size());
  state.cache.emplace_back(tensor.ref(), copy);
  return copy;
}

Tensor autocast_fp32(const Tensor& tensor) {
  if (!tensor.defined() || !is_half(tensor.dtype())) {
    return tensor;
  }
  return tensor.to(Dtype::float32);
}

}  // namespace peakcast::torch
