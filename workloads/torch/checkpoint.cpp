#include "workloads/torch/checkpoint.hpp"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

using Function = std::function<TensorList(const TensorList&)>;

/// What the forward's autocast was, to be entered again for the recomputation.
struct AutocastMode {
  AutocastMode()
      : enabled{Runtime::current().autocast.enabled}, dtype{Runtime::current().autocast.dtype} {}
  bool enabled;
  Dtype dtype;
};

// -- reentrant ------------------------------------------------------------------------------------

/// torch.utils.checkpoint.CheckpointFunction: the whole forward again, then a backward within the
/// backward.
struct CheckpointBackward final : Node {
  CheckpointBackward(Function run_function, std::size_t count)
      : function{std::move(run_function)}, inputs(count) {}
  [[nodiscard]] const char* name() const override { return "CheckpointFunctionBackward"; }

  TensorList apply(TensorList& grads) override {
    // Whatever output nobody used: its gradient is made of zeros (set_materialize_grads).
    for (std::size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) {
        const OpScope scope{"zeros"};
        grads[i] = empty(outputs[i].sizes, outputs[i].dtype);
      }
    }
    TensorList result(inputs.size());
    TensorList detached;
    TensorList outputs_again;
    for (const SavedTensor& input : inputs) {
      const Tensor saved = input.unpack();
      detached.push_back(saved.defined() ? saved.detach() : Tensor{});
      if (saved.defined()) {
        detached.back().set_requires_grad(saved.requires_grad());
      }
    }
    {
      const GradMode grad{true};
      const AutocastScope autocast{mode.enabled, mode.dtype};
      outputs_again = function(detached);
    }
    TensorList roots;
    TensorList root_grads;
    std::size_t next_grad = 0;
    for (const Tensor& output : outputs_again) {
      if (!output.defined()) {
        continue;
      }
      if (output.requires_grad()) {
        roots.push_back(output);
        root_grads.push_back(grads[next_grad]);
      }
      ++next_grad;
    }
    Runtime::current().engine().backward(roots, root_grads, {});
    root_grads.clear();
    roots.clear();
    for (std::size_t i = 0; i < detached.size(); ++i) {
      if (detached[i].defined()) {
        result[i] = detached[i].grad();
        detached[i].reset();
      }
    }
    return result;
  }
  void release_variables() override {
    for (SavedTensor& input : inputs) {
      input.release();
    }
  }
  struct Output {
    Shape sizes{};
    Dtype dtype{};
  };
  Function function;
  AutocastMode mode{};
  std::vector<SavedTensor> inputs;
  std::vector<Output> outputs{};
};

bool any_needs_grad(const TensorList& arguments) {
  return Runtime::current().grad_enabled &&
         std::any_of(arguments.begin(), arguments.end(), [](const Tensor& argument) {
           return argument.defined() && argument.requires_grad();
         });
}

TensorList reentrant(const Function& function, const TensorList& arguments) {
  Ref<CheckpointBackward> node;
  if (any_needs_grad(arguments)) {
    node = make_ref<CheckpointBackward>(function, arguments.size());
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      node->next.push_back(gradient_edge(arguments[i]));
      node->inputs[i].save(arguments[i]);
    }
  }
  TensorList outputs;
  {
    const GradMode no_grad{false};
    outputs = function(arguments);
  }
  for (Tensor& output : outputs) {
    if (output.defined()) {
      if (node) {
        node->outputs.push_back({output.sizes(), output.dtype()});
      }
      output = with_history(std::move(output), node);
    }
  }
  return outputs;
}

// -- not reentrant --------------------------------------------------------------------------------

/// Ends a recomputation that has rebuilt all that the backward will ask for, in the middle of
/// whatever operator was about to run: as in PyTorch an exception, because the model's frames have
/// to unwind (what they free, and when, is the point). Caught by the frame that started it.
class StopRecomputation : public std::exception {};

/// torch.utils.checkpoint._CheckpointFrame with its two pairs of hooks.
class Frame final : public SavedTensorHooks {
 public:
  Frame(Function function, const TensorList& arguments)
      : arguments_(arguments.size()), function_{std::move(function)} {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      arguments_[i].save(arguments[i]);
    }
  }
  /// In the forward a placeholder is all that is kept.
  std::uint64_t pack(const Tensor& /*tensor*/) override {
    Runtime::current().host_work(HostWork::saved_hook);
    slots_.push_back({});
    return slots_.size() - 1;
  }
  Tensor unpack(std::uint64_t handle) override {
    if (!recomputed_) {
      recompute();
      recomputed_ = true;
    }
    return std::move(slots_[handle].tensor);
  }
  void release(std::uint64_t handle) override {
    slots_[handle].wanted = false;
    slots_[handle].tensor.reset();
  }
  /// From the recomputation's hooks: true when that was the last one.
  bool rebuilt(const Tensor& tensor) {
    Slot& slot = slots_[next_++];
    if (slot.wanted) {
      slot.tensor = tensor.requires_grad() ? tensor.detach() : tensor;
    }
    return next_ == slots_.size();
  }

 private:
  struct Slot {
    Tensor tensor{};
    bool wanted{true};
  };
  void recompute();

  AutocastMode mode_{};
  std::vector<SavedTensor> arguments_;
  std::vector<Slot> slots_{};
  std::size_t next_{};
  bool recomputed_{};
  Function function_;  // last: what it holds goes before the arguments
};

/// In force while a frame recomputes: what the rebuilt graph saves goes to the frame, and to the
/// rebuilt graph for as long as that lives (until the frames unwind).
class RecomputationHooks final : public SavedTensorHooks {
 public:
  explicit RecomputationHooks(Frame& frame) : frame_{frame} {}
  std::uint64_t pack(const Tensor& tensor) override {
    Runtime::current().host_work(HostWork::saved_hook);
    if (frame_.rebuilt(tensor)) {
      throw StopRecomputation{};
    }
    kept_.push_back(tensor.detach());
    return kept_.size() - 1;
  }
  Tensor unpack(std::uint64_t handle) override { return kept_[handle]; }
  void release(std::uint64_t handle) override { kept_[handle].reset(); }

 private:
  Frame& frame_;
  TensorList kept_{};
};

void Frame::recompute() {
  Runtime& runtime = Runtime::current();
  TensorList arguments;
  for (const SavedTensor& argument : arguments_) {
    arguments.push_back(argument.unpack());
  }
  Ref<SavedTensorHooks> hooks{new RecomputationHooks(*this)};
  runtime.saved_tensor_hooks.push_back(hooks);
  try {
    const GradMode grad{true};
    const AutocastScope autocast{mode_.enabled, mode_.dtype};
    static_cast<void>(function_(arguments));
  } catch (const StopRecomputation&) {  // NOLINT(bugprone-empty-catch): the way it ends
  }
  runtime.saved_tensor_hooks.pop_back();
}

TensorList not_reentrant(const Function& function, const TensorList& arguments) {
  Runtime& runtime = Runtime::current();
  if (!runtime.grad_enabled) {
    return function(arguments);
  }
  Ref<SavedTensorHooks> frame{new Frame(function, arguments)};
  runtime.saved_tensor_hooks.push_back(frame);
  TensorList outputs = function(arguments);
  runtime.saved_tensor_hooks.pop_back();
  return outputs;
}

}  // namespace

TensorList checkpoint_many(const Function& function, TensorList arguments, bool use_reentrant) {
  const TensorList held = std::move(arguments);
  return use_reentrant ? reentrant(function, held) : not_reentrant(function, held);
}

Tensor checkpoint(std::function<Tensor(const TensorList&)> function, TensorList arguments,
                  bool use_reentrant) {
  TensorList outputs = checkpoint_many(
      [run = std::move(function)](const TensorList& inputs) { return TensorList{run(inputs)}; },
      std::move(arguments), use_reentrant);
  return std::move(outputs.front());
}

}  // namespace peakcast::torch
