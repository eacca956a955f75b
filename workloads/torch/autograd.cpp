#include "workloads/torch/autograd.hpp"

#include <algorithm>

#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

constexpr std::uint64_t kFirst = std::numeric_limits<std::uint64_t>::max();

void on_saved(const Tensor& tensor) {
  if (OpGraph* graph = Runtime::current().graph()) {
    graph->on_save(tensor);
  }
}

/// What a saved buffer is for the breakdown: an activation, unless it is known to be something
/// else.
void mark_activation(const Tensor& tensor) {
  if (tensor.storage()->category() == Category::temporary) {
    tensor.storage()->set_category(Category::activation);
  }
}

/// Strides that autograd accepts for a gradient without copying: the parameter's, or row-major
/// where the parameter is not dense. Dimensions of one element do not matter.
bool obeys_layout_contract(const Tensor& grad, const Tensor& variable) {
  if (!variable.is_non_overlapping_and_dense()) {
    return grad.is_contiguous();
  }
  for (std::size_t i = 0; i < grad.sizes().size(); ++i) {
    if (grad.sizes()[i] != 1 && grad.strides()[i] != variable.strides()[i]) {
      return false;
    }
  }
  return true;
}

}  // namespace

// -- saved tensors --------------------------------------------------------------------------------

void SavedTensor::save(const Tensor& tensor) {
  release();
  if (!tensor.defined()) {
    return;
  }
  saved_ = true;
  on_saved(tensor);
  auto& hooks = Runtime::current().saved_tensor_hooks;
  // PyTorch keeps wrapped numbers from hooks (torch/csrc/autograd/saved_variable.cpp).
  if (!hooks.empty() && hooks.back() && !tensor->wrapped_number) {
    hooks_ = hooks.back();
    handle_ = hooks_->pack(tensor);
    return;
  }
  mark_activation(tensor);
  data_ = tensor;
}

void SavedTensor::save_output(const Tensor& tensor) {
  if (tensor.defined()) {
    save(tensor.detach());
  }
}

Tensor SavedTensor::unpack() const {
  check(!saved_ || defined(), "a second backward through a graph whose saved tensors are released");
  return hooks_ ? hooks_->unpack(handle_) : data_;
}

void SavedTensor::release() {
  data_.reset();
  if (hooks_) {
    hooks_->release(handle_);
    hooks_.reset();
  }
}

// -- nodes ----------------------------------------------------------------------------------------

Node::Node() : sequence{Runtime::current().next_sequence()}, stream{Runtime::current().stream} {}

Node::~Node() { Runtime::current().host_work(HostWork::graph_node); }

AccumulateGrad::AccumulateGrad(const Tensor& leaf) : variable_{leaf} {
  sequence = kFirst;
  outputs.push_back({leaf.sizes(), leaf.dtype()});
  leaf->accumulator = this;
}

AccumulateGrad::~AccumulateGrad() { variable_->accumulator = nullptr; }

TensorList AccumulateGrad::apply(TensorList& grads) {
  if (!grads[0].defined()) {
    return {};
  }
  Tensor grad = std::move(grads[0]);
  const OpScope scope{"AccumulateGrad"};
  const std::uint32_t own_references = post_hooks.empty() ? 1 : 2;
  if (!variable_.grad().defined()) {
    if (grad.ref()->use_count() <= own_references && obeys_layout_contract(grad, variable_)) {
      variable_.set_grad(grad.detach());
    } else {
      Tensor copy = clone(grad.detach());
      copy->strides = variable_.is_non_overlapping_and_dense() ? variable_.strides()
                                                               : contiguous_strides(copy.sizes());
      variable_.set_grad(copy);
    }
    variable_.grad().storage()->set_category(Category::gradient);
  } else {
    in_place("add_", variable_.grad(), {&grad});
  }
  grad.reset();
  for (const PostAccumulateHook& hook : variable_->post_accumulate_hooks) {
    hook(variable_);
  }
  return {};
}

Ref<AccumulateGrad> grad_accumulator(const Tensor& leaf) {
  if (leaf->accumulator == nullptr) {
    return make_ref<AccumulateGrad>(leaf);
  }
  return Ref<AccumulateGrad>{leaf->accumulator};
}

Edge gradient_edge(const Tensor& tensor) {
  if (!tensor.defined()) {
    return {};
  }
  if (tensor->grad_fn) {
    return {tensor->grad_fn, tensor->output_nr};
  }
  if (tensor->requires_grad) {
    return {grad_accumulator(tensor), 0};
  }
  return {};
}

void register_hook(const Tensor& tensor, TensorHook hook) {
  const Edge edge = gradient_edge(tensor);
  check(static_cast<bool>(edge), "a hook needs a tensor with a gradient");
  edge.node->tensor_pre_hooks.push_back({edge.input_nr, std::move(hook)});
}

bool any_requires_grad(std::initializer_list<const Tensor*> inputs) {
  return Runtime::current().grad_enabled &&
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor* input) {
           return input->defined() && input->requires_grad();
         });
}

void connect(Node& node, std::initializer_list<const Tensor*> inputs) {
  for (const Tensor* input : inputs) {
    node.next.push_back(gradient_edge(*input));
  }
}

Tensor with_history(Tensor output, const Ref<Node>& node) {
  if (node && output.defined()) {
    output->output_nr = static_cast<std::uint32_t>(node->outputs.size());
    output->grad_fn = node;
    node->outputs.push_back({output.sizes(), output.dtype()});
  }
  return output;
}

// -- engine ---------------------------------------------------------------------------------------

/// One backward(): what is still to come, and which inputs have arrived.
struct Engine::Task {
  struct Waiting {
    Ref<Node> node{};
    TensorList inputs{};
  };
  std::unordered_map<const Node*, std::int64_t> dependencies{};  ///< never iterated
  std::unordered_map<const Node*, Waiting> not_ready{};          ///< never iterated
  std::vector<std::function<void()>> callbacks{};
  std::vector<StreamId> leaf_streams{};  ///< of accumulations on other streams than the caller's
  StreamId stream{};                     ///< the caller's
  std::int64_t outstanding{};
  bool keep_graph{};
};

bool Engine::comes_later(const Ready& a, const Ready& b) {
  if (a.depth == b.depth) {
    return a.node->sequence < b.node->sequence;
  }
  return a.depth < b.depth;
}

// Equal keys (accumulations) leave the queue in the order in which a binary heap happens to hold
// them. That order is visible (it is the order of frees), so the heap is written out here: the sift
// procedures of std::push_heap and std::pop_heap in libstdc++, with which PyTorch is built.
void Engine::push(Ready ready) {
  heap_.emplace_back();
  std::size_t hole = heap_.size() - 1;
  while (hole > 0) {
    const std::size_t parent = (hole - 1) / 2;
    if (!comes_later(heap_[parent], ready)) {
      break;
    }
    heap_[hole] = std::move(heap_[parent]);
    hole = parent;
  }
  heap_[hole] = std::move(ready);
}

Engine::Ready Engine::pop() {
  Ready top = std::move(heap_.front());
  Ready last = std::move(heap_.back());
  heap_.pop_back();
  const std::size_t length = heap_.size();
  if (length == 0) {
    return top;
  }
  std::size_t hole = 0;
  std::size_t child = 0;
  while (child < (length - 1) / 2) {
    child = 2 * (child + 1);
    if (comes_later(heap_[child], heap_[child - 1])) {
      --child;
    }
    heap_[hole] = std::move(heap_[child]);
    hole = child;
  }
  if (length % 2 == 0 && child == (length - 2) / 2) {
    child = 2 * (child + 1);
    heap_[hole] = std::move(heap_[child - 1]);
    hole = child - 1;
  }
  while (hole > 0) {
    const std::size_t parent = (hole - 1) / 2;
    if (!comes_later(heap_[parent], last)) {
      break;
    }
    heap_[hole] = std::move(heap_[parent]);
    hole = parent;
  }
  heap_[hole] = std::move(last);
  return top;
}

namespace {

/// What arrives at an input that may already hold a gradient. The held one is added to in place
/// when nobody else holds it or its storage; a gradient that came out of a view op does not
/// qualify, because its base holds the storage too.
void accumulate(TensorList& inputs, std::size_t at, Tensor arriving) {
  Tensor& held = inputs[at];
  if (!held.defined()) {
    held = std::move(arriving);
    return;
  }
  const bool in_place_ok = !Runtime::current().grad_enabled && !Runtime::current().dispatch_mode &&
                           held.is_non_overlapping_and_dense() && held.ref()->use_count() == 1 &&
                           held.storage()->use_count() == 1;
  const OpScope scope{"accumulate"};
  if (in_place_ok) {
    in_place("add_", held, {&arriving});
    return;
  }
  held = add(held, arriving);
}

/// Gradients broadcast in the forward are summed, and other types cast, to what the input was.
void validate(const Node& node, TensorList& grads) {
  check(grads.empty() || grads.size() >= node.next.size(), "a node returns one gradient per edge");
  for (std::size_t i = 0; i < node.next.size() && i < grads.size(); ++i) {
    const Edge& edge = node.next[i];
    Tensor& grad = grads[i];
    if (!edge || !grad.defined()) {
      continue;
    }
    const Node::Meta& meta = edge.node->outputs[edge.input_nr];
    if (!(grad.sizes() == meta.sizes)) {
      grad = sum_to(grad, meta.sizes);
    }
    if (grad.dtype() != meta.dtype) {
      grad = grad.to(meta.dtype);
    }
  }
}

}  // namespace

void Engine::deliver(Task& task, const Edge& edge, Tensor gradient, int depth) {
  const Node* const next = edge.node.get();
  const StreamGuard consumer{next->stream};  // sums are computed where they are consumed
  const auto dependency = task.dependencies.find(next);
  check(dependency != task.dependencies.end(), "a node of the graph was not counted");
  const bool is_ready = --dependency->second == 0;
  auto waiting = task.not_ready.find(next);
  if (waiting == task.not_ready.end()) {
    waiting =
        task.not_ready.emplace(next, Task::Waiting{edge.node, TensorList(next->outputs.size())})
            .first;
  }
  if (gradient.defined()) {
    accumulate(waiting->second.inputs, edge.input_nr, std::move(gradient));
  }
  if (is_ready) {
    push({edge.node, std::move(waiting->second.inputs), &task, depth});
    ++task.outstanding;
    task.not_ready.erase(waiting);
  }
}

void Engine::evaluate(Ready& ready) {
  Runtime& runtime = Runtime::current();
  Node& node = *ready.node;
  const StreamGuard on{node.stream};
  const OpScope scope{node.name()};
  TensorList outputs;
  {
    TensorList inputs = std::move(ready.inputs);
    for (const Node::TensorPreHook& pre : node.tensor_pre_hooks) {
      Tensor& grad = inputs[pre.output_nr];
      if (grad.defined()) {
        Tensor replaced = pre.hook(grad);
        if (replaced.defined()) {
          grad = std::move(replaced);
        }
      }
    }
    for (const auto& hook : node.pre_hooks) {
      hook(inputs);
    }
    if (node.post_hooks.empty()) {
      outputs = node.apply(inputs);
      validate(node, outputs);
    } else {
      TensorList copy = inputs;
      outputs = node.apply(copy);
      copy.clear();
      validate(node, outputs);
      // A hook may add others or remove itself.
      const auto hooks = node.post_hooks;
      for (const auto& hook : hooks) {
        hook(outputs, inputs);
      }
    }
    for (Tensor& input : inputs) {
      input.reset();
    }
  }
  Task& task = *ready.task;
  if (!task.keep_graph) {
    node.release_variables();
  }
  for (std::size_t i = 0; i < outputs.size() && i < node.next.size(); ++i) {
    const Edge& edge = node.next[i];
    if (!edge) {
      continue;
    }
    Node* next = edge.node.get();
    if (next->stream != node.stream && outputs[i].defined()) {
      // Another stream consumes it: it waits, and the allocator hears of it.
      runtime.wait_event(next->stream, runtime.record_event(node.stream));
      outputs[i].record_stream(next->stream);
    }
    deliver(task, edge, std::move(outputs[i]), ready.depth);
  }
  if (node.next.empty() && node.stream != task.stream &&
      std::find(task.leaf_streams.begin(), task.leaf_streams.end(), node.stream) ==
          task.leaf_streams.end()) {
    task.leaf_streams.push_back(node.stream);
  }
}

void Engine::run(Task& task) {
  while (task.outstanding > 0) {
    Ready ready = pop();
    --ready.task->outstanding;
    evaluate(ready);
  }
}

void Engine::queue_callback(std::function<void()> callback) {
  check(!tasks_.empty(), "callbacks are queued during a backward pass");
  tasks_.back()->callbacks.push_back(std::move(callback));
}

void Engine::backward(const TensorList& roots, TensorList gradients, const Options& options) {
  Runtime& runtime = Runtime::current();
  // Made by Python before the engine starts, and alive until backward() returns.
  gradients.resize(roots.size());
  for (std::size_t i = 0; i < roots.size(); ++i) {
    if (!gradients[i].defined()) {
      const OpScope scope{"ones_like"};
      gradients[i] = empty_like(roots[i]);
    }
  }
  Task task;
  task.keep_graph = options.keep_graph;
  task.stream = runtime.stream;
  // Counts every edge that can be reached, once per node.
  std::vector<Node*> stack;
  std::unordered_map<const Node*, bool> seen;
  for (const Tensor& root : roots) {
    const Edge edge = gradient_edge(root);
    check(static_cast<bool>(edge), "backward() needs a tensor with a gradient");
    ++task.dependencies[edge.node.get()];
    if (seen.emplace(edge.node.get(), true).second) {
      stack.push_back(edge.node.get());
    }
  }
  while (!stack.empty()) {
    Node* node = stack.back();
    stack.pop_back();
    for (const Edge& edge : node->next) {
      if (edge) {
        ++task.dependencies[edge.node.get()];
        if (seen.emplace(edge.node.get(), true).second) {
          stack.push_back(edge.node.get());
        }
      }
    }
  }
  runtime.host_work(HostWork::backward_call);
  runtime.host_work(HostWork::graph_node, static_cast<std::int64_t>(seen.size()));
  ++depth_;
  tasks_.push_back(&task);
  {
    const Setting<HostThread> thread{runtime.thread, HostThread::autograd};
    const GradMode no_grad{false};
    // A root that others lead to (a leaf that a checkpointed function returns) waits for them.
    for (std::size_t i = 0; i < roots.size(); ++i) {
      deliver(task, gradient_edge(roots[i]), gradients[i], depth_);
    }
    run(task);
    // What the leaves' streams did comes before what the caller does next.
    for (const StreamId leaf : task.leaf_streams) {
      runtime.wait_event(task.stream, runtime.record_event(leaf));
    }
    // Callbacks may queue further ones.
    for (std::size_t i = 0; i < task.callbacks.size(); ++i) {
      const auto callback = task.callbacks[i];
      callback();
    }
  }
  tasks_.pop_back();
  --depth_;
}

void backward(const Tensor& loss, const Tensor& gradient) {
  Runtime::current().engine().backward({loss}, {gradient}, {});
}

}  // namespace peakcast::torch
