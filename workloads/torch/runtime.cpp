#include "workloads/torch/runtime.hpp"

#include <algorithm>
#include <array>

#include "workloads/torch/autograd.hpp"
#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

/// Per thread, so that runs on several threads do not meet.
thread_local Runtime* current_runtime = nullptr;

/// Default cuBLAS workspace. Source: PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp: 4096 x 8 KiB
/// on compute capability 9.0, else 4096 KiB x 2 + 16 KiB x 8.
Bytes cublas_workspace(const GpuTraits& gpu) {
  using namespace literals;
  return gpu.compute_capability == 90 ? 4096 * 8_KiB : 2 * 4096_KiB + 8 * 16_KiB;
}
/// Default cuBLASLt workspace, a block of its own. Source: the H100 recordings of PyTorch 2.11.0.
constexpr Bytes kCublasLtWorkspace{1 << 20};

// Runtime::use_kernels() and the like say what these are.
constexpr Bytes kLocalMemory{1792};
constexpr Bytes kKernelCode{2 << 20};
constexpr Bytes kDeviceHeap{10 << 20};
/// libcudnn_engines_precompiled and two more, as mapped.
constexpr std::array<Bytes, 3> kCudnnLibraries{Bytes{240 << 20}, Bytes{64 << 20}, Bytes{34 << 20}};
/// What cuBLAS takes when it is made, beside the workspace that PyTorch gives it.
constexpr std::array<Bytes, 2> kCublasOwn{Bytes{2 << 20}, Bytes{64 << 20}};

}  // namespace

Runtime::Runtime(Trace& trace, const RuntimeOptions& options)
    : trace_{trace}, options_{options}, engine_{std::make_unique<Engine>()} {
  if (options.record_graph) {
    graph_ = std::make_unique<OpGraph>();
  }
}

Runtime::~Runtime() = default;

Runtime& Runtime::current() {
  check(current_runtime != nullptr, "an operator needs a RuntimeScope");
  return *current_runtime;
}

std::unique_ptr<OpGraph> Runtime::take_graph() { return std::move(graph_); }

std::uint32_t Runtime::intern(const char* name) {
  if (name == last_name_) {
    return last_label_;
  }
  last_name_ = name;
  for (const auto& [known, label] : labels_) {
    if (known == name) {
      return last_label_ = label;
    }
  }
  // The same words may live at two addresses.
  const std::string_view text{name};
  const auto found = std::find(trace_.strings.begin(), trace_.strings.end(), text);
  if (found == trace_.strings.end()) {
    trace_.strings.emplace_back(text);
    last_label_ = static_cast<std::uint32_t>(trace_.strings.size());
  } else {
    last_label_ = static_cast<std::uint32_t>(found - trace_.strings.begin()) + 1;
  }
  labels_.emplace_back(name, last_label_);
  return last_label_;
}

std::uint32_t Runtime::take_buffer() {
  if (free_buffers_.empty()) {
    return trace_.buffer_slots++;
  }
  const std::uint32_t buffer = free_buffers_.back();
  free_buffers_.pop_back();
  return buffer;
}

void Runtime::put(const Op& op) {
  trace_.ops.push_back(op);
  trace_.labels.push_back(0);
}

std::uint32_t Runtime::host_allocate(Bytes size) {
  const std::uint32_t buffer = take_buffer();
  put({size.count(), buffer, 0, OpKind::host_allocate, 0});
  return buffer;
}

void Runtime::host_free(std::uint32_t buffer) {
  if (ended_) {
    return;
  }
  put({0, buffer, 0, OpKind::host_free, 0});
  free_buffers_.push_back(buffer);
}

void Runtime::use_kernels() {
  if (!std::exchange(used_kernels_, true)) {
    put({kLocalMemory.count(), 0, 0, OpKind::local_memory, 0});
    put({kKernelCode.count(), 0, 0, OpKind::driver_memory, 0});
  }
}

void Runtime::use_device_heap() {
  if (!std::exchange(used_device_heap_, true)) {
    put({kDeviceHeap.count(), 0, 0, OpKind::driver_memory, 0});
  }
}

void Runtime::use_cudnn() {
  if (!std::exchange(used_cudnn_, true)) {
    for (const Bytes library : kCudnnLibraries) {
      static_cast<void>(host_allocate(library));
    }
  }
}

void Runtime::use_attention_plan(const AttentionWork& work) {
  if (attention_plans_.emplace(thread, work).second) {
    host_work(HostWork::attention_plan);
    wait_within_driver();  // it loads kernels
  }
}

Runtime::Allocation Runtime::allocate(Bytes size, Category category) {
  Allocation made;
  made.buffer = take_buffer();
  made.op_index = static_cast<std::uint32_t>(trace_.ops.size());
  trace_.ops.push_back({size.count(), made.buffer, static_cast<std::uint16_t>(stream.value),
                        OpKind::allocate, static_cast<std::uint8_t>(category)});
  trace_.labels.push_back(intern(op_name));
  return made;
}

void Runtime::free(std::uint32_t buffer, StreamId on, bool reusable) {
  if (ended_) {
    return;
  }
  trace_.ops.push_back({0, buffer, static_cast<std::uint16_t>(on.value), OpKind::free, 0});
  trace_.labels.push_back(intern(op_name));
  if (reusable) {
    free_buffers_.push_back(buffer);
  }
}

void Runtime::record_stream(std::uint32_t buffer, StreamId on) {
  trace_.ops.push_back({0, buffer, static_cast<std::uint16_t>(on.value), OpKind::record_stream, 0});
  trace_.labels.push_back(0);
}

void Runtime::set_category(std::uint32_t op_index, Category category) {
  std::uint8_t& flags = trace_.ops[op_index].flags;
  flags = static_cast<std::uint8_t>((flags & ~kCategoryMask) | static_cast<std::uint8_t>(category));
}

void Runtime::mark(MarkKind kind, std::string_view what) {
  auto found = std::find(trace_.strings.begin(), trace_.strings.end(), what);
  if (found == trace_.strings.end()) {
    trace_.strings.emplace_back(what);
    found = trace_.strings.end() - 1;
  }
  trace_.ops.push_back({0, static_cast<std::uint32_t>(found - trace_.strings.begin()), 0,
                        OpKind::mark, static_cast<std::uint8_t>(kind)});
  trace_.labels.push_back(0);
}

void Runtime::launch(const KernelCost& cost) {
  if (graph_) {
    graph_->on_launch(cost.flops, cost.bytes);
  }
  if (cost.kind == KernelCost::Kind::elementwise) {
    use_kernels();
  } else if (cost.kind == KernelCost::Kind::reduction ||
             cost.kind == KernelCost::Kind::column_reduction) {
    use_device_heap();
  }
  if (options_.cost_model == nullptr) {
    return;
  }
  const std::uint32_t label = intern(op_name);
  if (loaded_.size() <= label) {
    loaded_.resize(label + 1);
  }
  if (!loaded_[label]) {
    // Loading a kernel may wait for the card (CUDA programming guide, "Lazy loading"). It does:
    // what the card had passed, written by itself to host memory behind each free, reaches the last
    // free there (H100, 2026-11-28).
    loaded_[label] = true;
    host_work(HostWork::kernel_load);
    wait_within_driver();
  }
  trace_.ops.push_back({options_.cost_model->kernel(cost).count(), 0,
                        static_cast<std::uint16_t>(stream.value), OpKind::launch, 0});
  trace_.labels.push_back(label);
  // An operator allocates shortly before it launches: what the host does comes before both, that is
  // behind the launch before.
  host_work(cost.from_native ? HostWork::native_op : HostWork::op);
}

void Runtime::collective(const CollectiveCost& cost) {
  use_kernels();
  if (options_.cost_model == nullptr) {
    return;
  }
  host_work(HostWork::shard_hook);
  trace_.ops.push_back({options_.cost_model->collective(cost).count(), 0,
                        static_cast<std::uint16_t>(stream.value), OpKind::collective, 0});
  trace_.labels.push_back(intern(op_name));
}

void Runtime::host_work(HostWork work, std::int64_t count) {
  if (options_.cost_model == nullptr || count == 0 || ended_) {
    return;
  }
  const std::int64_t nanoseconds = options_.cost_model->host(work, thread).count() * count;
  if (!trace_.ops.empty() && trace_.ops.back().kind == OpKind::host_work) {
    trace_.ops.back().value += nanoseconds;  // no op between: one span
    return;
  }
  trace_.ops.push_back({nanoseconds, 0, 0, OpKind::host_work, 0});
  trace_.labels.push_back(0);
}

std::uint32_t Runtime::record_event(StreamId on) {
  const std::uint32_t event = trace_.event_slots++;
  trace_.ops.push_back({0, event, static_cast<std::uint16_t>(on.value), OpKind::record_event, 0});
  trace_.labels.push_back(0);
  return event;
}

void Runtime::wait_event(StreamId on, std::uint32_t event) {
  trace_.ops.push_back({0, event, static_cast<std::uint16_t>(on.value), OpKind::wait_event, 0});
  trace_.labels.push_back(0);
}

void Runtime::host_wait(std::uint32_t event) {
  trace_.ops.push_back({0, event, 0, OpKind::host_wait, 0});
  trace_.labels.push_back(0);
}

void Runtime::synchronize() {
  trace_.ops.push_back({0, 0, 0, OpKind::synchronize, kAllStreams});
  trace_.labels.push_back(0);
}

void Runtime::wait_within_driver() {
  trace_.ops.push_back({0, 0, 0, OpKind::synchronize, kAllStreams | kWithinDriver});
  trace_.labels.push_back(0);
}

void Runtime::synchronize_stream() {
  trace_.ops.push_back({0, 0, static_cast<std::uint16_t>(stream.value), OpKind::synchronize, 0});
  trace_.labels.push_back(0);
}

void Runtime::empty_cache() {
  trace_.ops.push_back({0, 0, 0, OpKind::empty_cache, 0});
  trace_.labels.push_back(0);
}

StreamId Runtime::make_stream() {
  const StreamId made{static_cast<std::uint32_t>(trace_.streams.size())};
  trace_.streams.push_back(trace_.streams.back() + 1);
  return made;
}

void Runtime::use_cublas(bool lt) {
  for (const Workspace& workspace : workspaces_) {
    if (workspace.thread == thread && workspace.stream == stream && workspace.lt == lt) {
      return;
    }
  }
  if (workspaces_.empty()) {
    for (const Bytes size : kCublasOwn) {
      put({size.count(), 0, 0, OpKind::driver_memory, 0});
    }
  }
  const Setting<const char*> name{op_name, lt ? "cublaslt_workspace" : "cublas_workspace"};
  workspaces_.push_back({thread, stream, lt,
                         make_ref<Storage>(lt ? kCublasLtWorkspace : cublas_workspace(options_.gpu),
                                           Device::cuda, Category::workspace)});
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
