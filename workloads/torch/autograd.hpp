#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "workloads/torch/runtime.hpp"
#include "workloads/torch/tensor.hpp"

namespace peakcast::torch {

/// Where a gradient goes: input `input_nr` of `node`. No node: nobody wants it.
struct Edge {
  Ref<Node> node{};
  std::uint32_t input_nr{};
  explicit operator bool() const { return static_cast<bool>(node); }
};

/// torch.autograd.graph.saved_tensors_hooks: what is saved while one is in force is handed to it.
class SavedTensorHooks : public RefCounted {
 public:
  /// Keeps (or does not keep) `tensor` and returns a handle for it.
  virtual std::uint64_t pack(const Tensor& tensor) = 0;
  /// Gives it back, once per backward.
  virtual Tensor unpack(std::uint64_t handle) = 0;
  /// The node let go of it.
  virtual void release(std::uint64_t handle) = 0;
};

/// A tensor that a node keeps for its backward.
class SavedTensor {
 public:
  SavedTensor() = default;
  SavedTensor(const SavedTensor&) = delete;
  SavedTensor& operator=(const SavedTensor&) = delete;
  ~SavedTensor() { release(); }
  /// An input of the op: the very tensor.
  void save(const Tensor& tensor);
  /// An output of the op: another tensor on the same storage, so that no cycle arises.
  void save_output(const Tensor& tensor);
  [[nodiscard]] Tensor unpack() const;
  void release();
  [[nodiscard]] bool defined() const { return data_.defined() || hooks_; }

 private:
  Tensor data_{};
  Ref<SavedTensorHooks> hooks_{};
  std::uint64_t handle_{};
  bool saved_{};  ///< something was, and perhaps released since
};

/// One backward function. Derive, keep SavedTensor members, and write apply() in the order in which
/// the generated code computes: by the alphabetical order of the derivative formulas.
class Node : public RefCounted {
 public:
  Node();
  ~Node() override;
  [[nodiscard]] virtual const char* name() const = 0;
  /// `grads[i]` is the gradient of output i, perhaps undefined; they are alive until the engine
  /// has checked the result, unless moved from here. Returns one gradient per next edge (undefined
  /// where none). Sizes and types need not match the inputs': the engine sums and casts afterwards.
  [[nodiscard]] virtual TensorList apply(TensorList& grads) = 0;
  /// Lets go of the saved tensors, in PyTorch's order: inputs by name, then outputs by name.
  virtual void release_variables() {}

  /// Shape and type of each of this node's outputs: what a gradient must be when it arrives.
  struct Meta {
    Shape sizes{};
    Dtype dtype{};
  };
  std::vector<Edge> next{};
  std::vector<Meta> outputs{};
  std::uint64_t sequence{};
  StreamId stream{};  ///< the forward's; the backward runs there too
  struct TensorPreHook {
    std::uint32_t output_nr{};
    TensorHook hook{};
  };
  std::vector<TensorPreHook> tensor_pre_hooks{};  ///< Tensor.register_hook
  std::vector<std::function<void(TensorList& grads)>> pre_hooks{};
  /// Sees what apply() returned and what it was given.
  std::vector<std::function<void(TensorList& outputs, const TensorList& inputs)>> post_hooks{};

  [[nodiscard]] bool wants(std::size_t i) const { return i < next.size() && next[i]; }
};

/// The end of the graph: brings a gradient into its leaf's .grad. Stolen when nobody else holds it
/// and its strides are the leaf's, else copied; added in place when there is one already.
class AccumulateGrad final : public Node {
 public:
  explicit AccumulateGrad(const Tensor& leaf);
  ~AccumulateGrad() override;
  [[nodiscard]] const char* name() const override { return "AccumulateGrad"; }
  [[nodiscard]] TensorList apply(TensorList& grads) override;
  [[nodiscard]] const Tensor& variable() const { return variable_; }

 private:
  Tensor variable_;
};
/// The leaf's accumulator, made at need. Keep the Ref to keep hooks on it alive.
[[nodiscard]] Ref<AccumulateGrad> grad_accumulator(const Tensor& leaf);
/// The edge on which `tensor`'s gradient arrives; empty when it needs none.
[[nodiscard]] Edge gradient_edge(const Tensor& tensor);
/// Tensor.register_hook on a tensor that needs gradients.
void register_hook(const Tensor& tensor, TensorHook hook);

/// A node of type N whose next edges are `inputs`, or nothing when gradients are off or none of the
/// inputs needs one. An undefined tensor is an input without an edge.
[[nodiscard]] bool any_requires_grad(std::initializer_list<const Tensor*> inputs);
void connect(Node& node, std::initializer_list<const Tensor*> inputs);
template <class N, class... Args>
[[nodiscard]] Ref<N> make_node(std::initializer_list<const Tensor*> inputs, Args&&... args) {
  if (!any_requires_grad(inputs)) {
    return {};
  }
  Ref<N> node{new N(std::forward<Args>(args)...)};
  connect(*node, inputs);
  return node;
}
/// Makes `output` the next output of `node` (which may be empty) and returns it.
Tensor with_history(Tensor output, const Ref<Node>& node);

/// Runs backward passes. Nodes run in the order of PyTorch's ready queue: accumulations first, then
/// the node whose forward ran last; a nested pass before the one it is nested in.
/// Source: PyTorch, torch/csrc/autograd/engine.cpp and input_buffer.cpp (2.11).
class Engine {
 public:
  struct Options {
    bool keep_graph{};
    bool accumulate{true};
  };
  /// root.backward(gradient): `gradient` undefined means ones, made here (and, as in Python, alive
  /// until the pass is over). Runs as the autograd thread. May be called from within a node.
  void backward(const TensorList& roots, TensorList gradients, const Options& options);
  /// Runs after the current pass's last node (DDP's and FSDP's final callbacks), in order.
  void queue_callback(std::function<void()> callback);
  [[nodiscard]] bool running() const { return depth_ > 0; }

 private:
  struct Task;
  struct Ready {
    Ref<Node> node{};
    TensorList inputs{};
    Task* task{};
    int depth{};
  };
  static bool comes_later(const Ready& a, const Ready& b);
  void push(Ready ready);
  Ready pop();
  void run(Task& task);
  void evaluate(Ready& ready);
  /// A gradient for `edge`: its node is ready when the last one has come.
  void deliver(Task& task, const Edge& edge, Tensor gradient, int depth);
  std::vector<Ready> heap_{};
  std::vector<Task*> tasks_{};
  int depth_{};
};

/// loss.backward().
void backward(const Tensor& loss, const Tensor& gradient = {});

}  // namespace peakcast::torch
