#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "workloads/torch/ops.hpp"

namespace peakcast::torch {

class Module;
/// Hooks see the module and may replace what flows. Run in the order of registration.
using ForwardPreHook = std::function<void(Module&, std::vector<Tensor*>& arguments)>;
using ForwardHook = std::function<void(Module&, TensorList& outputs)>;

/// nn.Module. Members register themselves with their parent in the order of their declaration:
///
///     struct Output : ModuleOf<Output> {
///       Output(Module* parent, std::string_view name, const Config& c)
///           : ModuleOf{parent, name}, dense{this, "dense", c.hidden, c.hidden} {}
///       Tensor forward(Tensor x) { return dense(x); }
///       Linear dense;
///     };
///
/// Modules do not move: their children know their address.
class Module {
 public:
  Module(Module* parent, std::string_view name);
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  struct Named {
    std::string name{};
    Tensor tensor{};
  };
  struct Child {
    std::string name{};
    Module* module{};
  };
  /// In the order of registration. Wrappers (FSDP) may edit these.
  std::vector<Named> own_parameters{};
  std::vector<Named> own_buffers{};
  std::vector<Child> children{};
  std::vector<ForwardPreHook> pre_hooks{};
  std::vector<ForwardHook> hooks{};
  bool training{true};

  Tensor add_parameter(std::string_view name, const Shape& sizes);
  Tensor add_buffer(std::string_view name, const Shape& sizes, Dtype dtype);

  /// Moves to the device, or gives floating tensors on the host another type: children first, then
  /// own parameters, then own buffers; a tensor met again (tied) is already there. Each copy is
  /// made before what it was made from goes.
  void to_cuda();
  /// Brings one of its own parameters to the card in a way of its own (quantised); false: plainly.
  [[nodiscard]] virtual bool bring_to_cuda(Named& /*parameter*/) { return false; }
  void to(Dtype dtype);
  void parameters_to(Dtype dtype);  ///< to(), but buffers stay what they are
  /// Own parameters first, then the children's; no duplicates.
  [[nodiscard]] TensorList parameters();
  [[nodiscard]] std::vector<Named> named_parameters();
  [[nodiscard]] std::vector<Module*> modules();  ///< itself first, depth first
  struct Path {
    std::string name{};  ///< "model.layers.0.self_attn.q_proj"; the root's is empty
    Module* module{};
  };
  [[nodiscard]] std::vector<Path> named_modules();  ///< in the same order
  /// The class's name, as an FSDP wrap policy looks at it: "BertLayer".
  [[nodiscard]] virtual std::string_view type_name() const { return ""; }
  /// True for the layers that gradient checkpointing and sharding wrap.
  [[nodiscard]] virtual bool is_transformer_layer() const { return false; }
  [[nodiscard]] const std::string& name() const { return name_; }

 protected:
  void run_pre_hooks(std::vector<Tensor*>& arguments);
  void run_hooks(TensorList& outputs);

 private:
  std::string name_;
};

/// A module whose call runs `Derived::forward` with hooks, keeping the arguments alive until it
/// returns as Module._call_impl does.
template <class Derived>
class ModuleOf : public Module {
 public:
  using Module::Module;

  template <class... Args>
  auto operator()(Args... arguments) {
    // Held here and not in the parameters, which live on until the caller's full expression ends.
    auto held = std::make_unique<std::tuple<Args...>>(std::move(arguments)...);
    if (!pre_hooks.empty()) {
      std::vector<Tensor*> tensors;
      std::apply([&](auto&... each) { (collect(tensors, each), ...); }, *held);
      run_pre_hooks(tensors);
    }
    Runtime::current().host_work(HostWork::module_call);
    auto result = std::apply(
        [&](const auto&... each) { return static_cast<Derived*>(this)->forward(each...); }, *held);
    if (!hooks.empty()) {
      finish(result);
    }
    return result;
  }

 private:
  static void collect(std::vector<Tensor*>& tensors, Tensor& tensor) {
    if (tensor.defined()) {
      tensors.push_back(&tensor);
    }
  }
  template <class T>
  static void collect(std::vector<Tensor*>& /*tensors*/, T& /*other*/) {}
  template <class R>
  void finish(R& result) {
    if constexpr (std::is_same_v<R, Tensor>) {
      TensorList outputs;
      outputs.push_back(std::move(result));
      run_hooks(outputs);
      result = std::move(outputs.front());
    } else {
      TensorList outputs = result.take_tensors();  // a model's output: logits, loss ...
      run_hooks(outputs);
      result.put_tensors(std::move(outputs));
    }
  }
};

/// What takes over a linear layer's call: an adapter around it, a quantised weight.
class LinearReplacement {
 public:
  virtual ~LinearReplacement() = default;
  [[nodiscard]] virtual Tensor forward(const Tensor& x) = 0;
  /// As Module::bring_to_cuda().
  [[nodiscard]] virtual bool bring_to_cuda(Module::Named& /*parameter*/) { return false; }
};

/// nn.Linear: weight [out, in].
struct Linear : ModuleOf<Linear> {
  Linear(Module* parent, std::string_view name, std::int64_t in, std::int64_t out,
         bool with_bias = true);
  /// On tensors that are there: the base layer of an adapter.
  Linear(Module* parent, std::string_view name, const Tensor& own_weight, const Tensor& own_bias);
  Tensor forward(const Tensor& x) {
    return replacement ? replacement->forward(x) : linear(x, weight, bias);
  }
  [[nodiscard]] std::string_view type_name() const override { return "Linear"; }
  [[nodiscard]] bool bring_to_cuda(Named& parameter) override {
    return replacement && replacement->bring_to_cuda(parameter);
  }
  Tensor weight;
  Tensor bias;
  std::unique_ptr<LinearReplacement> replacement{};
};
/// nn.LayerNorm over the last dimension.
struct LayerNorm : ModuleOf<LayerNorm> {
  LayerNorm(Module* parent, std::string_view name, std::int64_t size, bool with_bias = true);
  Tensor forward(const Tensor& x) { return layer_norm(x, weight, bias); }
  [[nodiscard]] std::string_view type_name() const override { return "LayerNorm"; }
  Tensor weight;
  Tensor bias;
};
struct Embedding : ModuleOf<Embedding> {
  Embedding(Module* parent, std::string_view name, std::int64_t rows, std::int64_t size);
  Tensor forward(const Tensor& indices) { return embedding(weight, indices); }
  [[nodiscard]] std::string_view type_name() const override { return "Embedding"; }
  Tensor weight;
};
struct Dropout : ModuleOf<Dropout> {
  Dropout(Module* parent, std::string_view name, double probability)
      : ModuleOf{parent, name}, p{probability} {}
  Tensor forward(const Tensor& x) { return dropout(x, p, training); }
  [[nodiscard]] std::string_view type_name() const override { return "Dropout"; }
  double p;
};

/// A module around a function that keeps nothing, such as an activation: a place for hooks.
class FunctionModule : public Module {
 public:
  FunctionModule(Module* parent, std::string_view name,
                 std::function<Tensor(const Tensor& x)> function)
      : Module{parent, name}, function_{std::move(function)} {}
  [[nodiscard]] Tensor operator()(const Tensor& x);

 private:
  std::function<Tensor(const Tensor& x)> function_;
};

/// nn.ModuleList of one type; elements are named "0", "1", ...
template <class T>
class ModuleList : public Module {
 public:
  ModuleList(Module* parent, std::string_view name) : Module{parent, name} {}
  template <class... Args>
  T& append(Args&&... args) {
    items_.push_back(
        std::make_unique<T>(this, std::to_string(items_.size()), std::forward<Args>(args)...));
    return *items_.back();
  }
  [[nodiscard]] std::size_t size() const { return items_.size(); }
  T& operator[](std::size_t i) { return *items_[i]; }
  [[nodiscard]] auto begin() { return items_.begin(); }
  [[nodiscard]] auto end() { return items_.end(); }

 private:
  std::vector<std::unique_ptr<T>> items_{};
};

}  // namespace peakcast::torch
