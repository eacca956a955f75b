#include "workloads/torch/optim.hpp"

#include <algorithm>
#include <utility>

namespace peakcast::torch {
namespace {

struct State {
  Tensor step{};
  Tensor first{};
  Tensor second{};
};

/// Parameters that have a gradient, and their state, made at need.
class Adam final : public Optimizer {
 public:
  enum class Form : std::uint8_t { foreach, fused, single };
  Adam(TensorList parameters, Form form, bool decoupled)
      : Optimizer{std::move(parameters)}, form_{form}, decoupled_{decoupled} {}
  [[nodiscard]] bool takes_scale() const override { return form_ == Form::fused; }

  void step() override {
    const GradMode no_grad{false};
    state_.resize(parameters_.size());
    TensorList parameters;
    std::vector<State*> states;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!parameters_[i].grad().defined()) {
        continue;
      }
      State& state = state_[i];
      if (!state.first.defined()) {
        const OpScope scope{"optimizer_state"};
        if (form_ == Form::fused) {
          state.step = empty({}, Dtype::float32, Category::optimizer);
        }
        state.first = empty_like(parameters_[i]);
        state.first.storage()->set_category(Category::optimizer);
        state.second = empty_like(parameters_[i]);
        state.second.storage()->set_category(Category::optimizer);
      }
      parameters.push_back(parameters_[i]);
      states.push_back(&state);
    }
    switch (form_) {
      case Form::foreach:
        step_foreach(parameters, states);
        break;
      case Form::fused:
        // Measured: 7.7 us a parameter.
        Runtime::current().host_work(HostWork::parameter,
                                     (static_cast<std::int64_t>(parameters.size()) + 1) / 2);
        launch(parameters, 7);
        break;
      case Form::single:
        step_single(parameters, states);
        break;
    }
  }

 private:
  static void launch(const TensorList& parameters, std::int64_t passes) {
    std::int64_t bytes = 0;
    for (const Tensor& parameter : parameters) {
      bytes += parameter.nbytes().count();
    }
    Runtime::current().launch(
        {KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, passes * bytes});
  }
  /// torch/optim/adam.py, _multi_tensor_adam: per device and type, in order of first appearance.
  void step_foreach(const TensorList& parameters, const std::vector<State*>& states) const {
    std::vector<Dtype> types;
    for (const Tensor& parameter : parameters) {
      if (std::find(types.begin(), types.end(), parameter.dtype()) == types.end()) {
        types.push_back(parameter.dtype());
      }
    }
    const auto count = static_cast<std::int64_t>(parameters.size());
    Runtime::current().host_work(HostWork::parameter, count);
    TensorList roots;
    for (const Dtype type : types) {
      // The name keeps the last group's list until the new one exists.
      TensorList fresh;
      const OpScope scope{"_foreach_sqrt"};
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (parameters[i].dtype() == type) {
          fresh.push_back(empty_like(states[i]->second));
        }
      }
      release_backwards(roots);
      roots = std::move(fresh);
    }
    static_cast<void>(decoupled_);
    // The roots, the divisions and the update: half of what came before them.
    Runtime::current().host_work(HostWork::parameter, (count + 1) / 2);
    launch(parameters, 20);
    const OpScope scope{"_foreach_sqrt"};
    release_backwards(roots);
  }
  void step_single(const TensorList& parameters, const std::vector<State*>& states) const {
    Tensor denominator;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const OpScope scope{"_single_tensor_adam"};
      Tensor root = empty_like(states[i]->second);
      Tensor scaled = empty_like(root);
      root.reset();
      Tensor next = std::move(scaled);
      denominator = std::move(next);
    }
    Runtime::current().host_work(HostWork::op, 10 * static_cast<std::int64_t>(parameters.size()));
    launch(parameters, 20);
  }
  Form form_;
  bool decoupled_;
  std::vector<State> state_{};
};

/// SGD with momentum 0.9 (foreach): the first step clones each gradient.
class Sgd final : public Optimizer {
 public:
  using Optimizer::Optimizer;
  void step() override {
    const GradMode no_grad{false};
    momentum_.resize(parameters_.size());
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].grad().defined() && !momentum_[i].defined()) {
        momentum_[i] = clone(parameters_[i].grad());
        momentum_[i].storage()->set_category(Category::optimizer);
      }
    }
    std::int64_t bytes = 0;
    for (const Tensor& parameter : parameters_) {
      bytes += parameter.nbytes().count();
    }
    const OpScope scope{"_multi_tensor_sgd"};
    Runtime::current().launch(
        {KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, 6 * bytes});
  }

 private:
  TensorList momentum_{};
};

/// SGD without momentum (foreach): gradients are added in place.
class PlainSgd final : public Optimizer {
 public:
  using Optimizer::Optimizer;
  void step() override {
    std::int64_t bytes = 0;
    for (const Tensor& parameter : parameters_) {
      bytes += parameter.grad().defined() ? parameter.nbytes().count() : 0;
    }
    const OpScope scope{"_multi_tensor_sgd"};
    Runtime::current().launch(
        {KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, 3 * bytes});
  }
};

/// torch.optim.RMSprop (foreach): the squares' averages, and their roots all at once.
/// Source: PyTorch 2.11, torch/optim/rmsprop.py (_multi_tensor_rmsprop).
class RmsProp final : public Optimizer {
 public:
  using Optimizer::Optimizer;
  void step() override {
    const GradMode no_grad{false};
    squares_.resize(parameters_.size());
    TensorList used;
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!parameters_[i].grad().defined()) {
        continue;
      }
      if (!squares_[i].defined()) {
        const OpScope scope{"optimizer_state"};
        squares_[i] = empty_like(parameters_[i]);
        squares_[i].storage()->set_category(Category::optimizer);
      }
      used.push_back(squares_[i]);
      bytes += parameters_[i].nbytes().count();
    }
    const OpScope scope{"_foreach_sqrt"};
    TensorList roots;
    for (const Tensor& square : used) {
      roots.push_back(empty_like(square));
    }
    Runtime::current().host_work(HostWork::parameter, static_cast<std::int64_t>(used.size()));
    Runtime::current().launch(
        {KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, 12 * bytes});
    release_backwards(roots);
  }

 private:
  TensorList squares_{};
};

/// bitsandbytes' 8-bit optimizers: states of one byte with a scale per 256 elements, in fp32 for
/// parameters below 4096 elements; paged ones of 1e5 elements and more live in managed memory,
/// which the caching allocator does not see. AdamW has two states, Lion one.
/// Source: bitsandbytes 0.50.2, bitsandbytes/optim/optimizer.py (init_state, get_state_buffer).
class EightBit final : public Optimizer {
 public:
  EightBit(TensorList parameters, std::size_t states, bool paged)
      : Optimizer{std::move(parameters)}, count_{states}, paged_{paged} {}
  void step() override {
    const GradMode no_grad{false};
    started_.resize(parameters_.size());
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!parameters_[i].grad().defined()) {
        continue;
      }
      if (!started_[i]) {
        started_[i] = true;
        initialise(parameters_[i]);
      }
      bytes += parameters_[i].nbytes().count();
      Runtime::current().synchronize();  // after every parameter's update
    }
    Runtime::current().launch(
        {KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, 4 * bytes});
  }

 private:
  static constexpr std::int64_t kSmallest = 4096;  // min_8bit_size
  static constexpr std::int64_t kBlock = 256;
  static constexpr std::int64_t kSmallestPaged = 100'000;
  void add_state(const Shape& sizes, Dtype dtype) {
    states_.push_back(empty(sizes, dtype, Category::optimizer));
  }
  void initialise(const Tensor& parameter) {
    const OpScope scope{"optimizer_state"};
    const std::int64_t elements = parameter.numel();
    const bool small = elements < kSmallest;
    if (!small && !mapped_) {  // the code books, one per state
      mapped_ = true;
      for (std::size_t k = 0; k < count_; ++k) {
        add_state({kBlock}, Dtype::float32);
      }
    }
    for (std::size_t k = 0; k < count_; ++k) {
      if (!paged_ || elements < kSmallestPaged) {
        add_state(parameter.sizes(), small ? Dtype::float32 : Dtype::uint8);
      }
    }
    for (std::size_t k = 0; !small && k < count_; ++k) {
      add_state({(elements + kBlock - 1) / kBlock}, Dtype::float32);
    }
  }
  std::size_t count_;
  bool paged_;
  bool mapped_{};
  std::vector<bool> started_{};
  TensorList states_{};
};

/// torch.optim.Adafactor. Its default is the for-loop form: matrices keep a row and a column of
/// second moments, vectors all of them; the update is a temporary of the parameter's size.
/// Source: PyTorch 2.11, torch/optim/_adafactor.py (_init_group, _single_tensor_adafactor).
class Adafactor final : public Optimizer {
 public:
  using Optimizer::Optimizer;
  void step() override {
    const GradMode no_grad{false};
    state_.resize(parameters_.size());
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor grad = parameters_[i].grad();
      if (grad.defined() && !state_[i].first.defined()) {
        initialise(grad, state_[i]);
      }
    }
    // The loop's names live on from one parameter to the next.
    Locals locals;
    Tensor& row_mean = locals.add();
    Tensor& column_mean = locals.add();
    Tensor& grad_squared = locals.add();
    Tensor& update = locals.add();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor& parameter = parameters_[i];
      const Tensor grad = parameter.grad();
      if (!grad.defined()) {
        continue;
      }
      const OpScope scope{"_single_tensor_adafactor"};
      Tensor var_estimate;
      sum(parameter, {}, false).reset();  // the norm, read at once
      if (grad.dim() > 1) {
        row_mean = sum(grad, {-1}, true);
        column_mean = sum(grad, {-2}, true);
        var_estimate = matmul(state_[i].first, state_[i].second);
        mean(state_[i].first, {-2}, true).reset();
      } else {
        grad_squared = pointwise("mul", {&grad, &grad}, grad.dtype());
        var_estimate = clone(state_[i].first);
      }
      update = std::move(var_estimate);  // rsqrt_ of it: the last update lived until here
      in_place("mul_", update, {&grad});
      sum(update, {}, false).reset();
      in_place("add_", parameter, {&update});
    }
  }

 private:
  static void initialise(const Tensor& grad, State& state) {
    const OpScope scope{"optimizer_state"};
    if (grad.dim() > 1) {
      Shape row = grad.sizes();
      row[row.size() - 1] = 1;
      Shape column = grad.sizes();
      column[column.size() - 2] = 1;
      state.first = empty(row, grad.dtype(), Category::optimizer);
      state.second = empty(column, grad.dtype(), Category::optimizer);
    } else {
      state.first = empty_like(grad);
      state.first.storage()->set_category(Category::optimizer);
    }
  }
  std::vector<State> state_{};
};

}  // namespace

void Optimizer::zero_grad() {
  const OpScope scope{"zero_grad"};
  for (const Tensor& parameter : parameters_) {
    parameter->grad.reset();
  }
}

std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, TensorList parameters) {
  switch (kind) {
    case OptimizerKind::adamw:
      return std::make_unique<Adam>(std::move(parameters), Adam::Form::foreach, true);
    case OptimizerKind::adamw_fused:
      return std::make_unique<Adam>(std::move(parameters), Adam::Form::fused, true);
    case OptimizerKind::adamw_single:
      return std::make_unique<Adam>(std::move(parameters), Adam::Form::single, true);
    case OptimizerKind::adam:
      return std::make_unique<Adam>(std::move(parameters), Adam::Form::foreach, false);
    case OptimizerKind::sgd:
      return std::make_unique<Sgd>(std::move(parameters));
    case OptimizerKind::adafactor:
      return std::make_unique<Adafactor>(std::move(parameters));
    case OptimizerKind::sgd_plain:
      return std::make_unique<PlainSgd>(std::move(parameters));
    case OptimizerKind::rmsprop:
      return std::make_unique<RmsProp>(std::move(parameters));
    case OptimizerKind::adamw8bit:
      return std::make_unique<EightBit>(std::move(parameters), 2, false);
    case OptimizerKind::paged_adamw8bit:
      return std::make_unique<EightBit>(std::move(parameters), 2, true);
    case OptimizerKind::lion8bit:
      return std::make_unique<EightBit>(std::move(parameters), 1, false);
    case OptimizerKind::lion:
    case OptimizerKind::muon:
      break;
  }
  check(false, "an optimizer that is not modelled");
  return {};
}

Tensor clip_grad_norm(const TensorList& parameters) {
  const GradMode no_grad{false};
  const OpScope scope{"clip_grad_norm"};
  // Gradients are grouped by type, in the order in which the types appear.
  std::vector<std::pair<Dtype, TensorList>> groups;
  for (const Tensor& parameter : parameters) {
    const Tensor grad = parameter.grad();
    if (!grad.defined()) {
      continue;
    }
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& entry) { return entry.first == grad.dtype(); });
    if (group == groups.end()) {
      groups.push_back({grad.dtype(), {}});
      group = groups.end() - 1;
    }
    group->second.push_back(grad);
  }
  if (groups.empty()) {
    return {};
  }
  Tensor total_norm;
  {
    TensorList norms;
    for (const auto& [dtype, grads] : groups) {
      // One partial norm per chunk of the largest tensor, for every tensor.
      // Source: PyTorch, aten/src/ATen/native/cuda/ForeachReduceOp.cu.
      constexpr std::int64_t kChunk = 65536;
      std::int64_t chunks = 0;
      std::int64_t bytes = 0;
      for (const Tensor& grad : grads) {
        chunks = std::max(chunks, (grad.numel() + kChunk - 1) / kChunk);
        bytes += grad.nbytes().count();
      }
      const Tensor partials =
          empty({static_cast<std::int64_t>(grads.size()) * chunks}, Dtype::float32);
      for (std::size_t i = 0; i < grads.size(); ++i) {
        norms.push_back(empty({}, dtype));
      }
      Runtime::current().launch(
          {KernelCost::Kind::reduction, dtype, bytes / element_size(dtype), bytes});
    }
    Dtype dtype = norms.front().dtype();
    for (const Tensor& norm : norms) {
      dtype = promote(dtype, norm.dtype());
    }
    Tensor stacked = empty({static_cast<std::int64_t>(norms.size())}, dtype);
    total_norm = empty({}, dtype);
    stacked.reset();
    release_backwards(norms);
  }
  Locals locals;
  Tensor& coefficient = locals.add();
  Tensor& clamped = locals.add();
  {  // max_norm / (total_norm + 1e-6)
    const Tensor sum = total_norm + 1e-6;
    const Tensor inverse = pointwise("reciprocal", {&sum}, sum.dtype());
    coefficient = inverse * 1.0;
  }
  clamped = pointwise("clamp", {&coefficient}, coefficient.dtype());
  for (const auto& [dtype, grads] : groups) {
    for (const Tensor& grad : grads) {
      in_place("_foreach_mul_", grad, {&clamped});
    }
  }
  return total_norm;
}

Tensor GradScaler::scale(const Tensor& loss) {
  const OpScope scope{"grad_scaler"};
  if (!scale_.defined()) {
    scale_ = empty({}, Dtype::float32, Category::optimizer);
    growth_tracker_ = empty({}, Dtype::int32, Category::optimizer);
  }
  return mul(loss, scale_);
}

void GradScaler::unscale_grads(const Optimizer& optimizer, const Tensor& inverse_scale,
                               const Tensor& found_inf) {
  found_inf_ = clone(found_inf);
  const Tensor on_device = clone(inverse_scale);  // it dies when the gradients are done
  std::int64_t bytes = 0;
  for (const Tensor& parameter : optimizer.parameters()) {
    bytes += parameter.grad().defined() ? parameter.grad().nbytes().count() : 0;
  }
  Runtime::current().launch({KernelCost::Kind::elementwise, Dtype::float32, bytes / 4, 2 * bytes});
}

void GradScaler::unscale(Optimizer& optimizer) {
  const GradMode no_grad{false};
  const OpScope scope{"grad_scaler"};
  Locals locals;
  Tensor& inverse_scale = locals.add();
  Tensor& found_inf = locals.add();
  {  // scale.double().reciprocal().float()
    Tensor wide = scale_.to(Dtype::float64);
    Tensor reciprocal = pointwise("reciprocal", {&wide}, Dtype::float64);
    wide.reset();
    inverse_scale = reciprocal.to(Dtype::float32);
  }
  found_inf = empty({}, Dtype::float32);
  unscale_grads(optimizer, inverse_scale, found_inf);
  unscaled_ = true;
}

void GradScaler::step(Optimizer& optimizer) {
  const GradMode no_grad{false};
  if (!optimizer.takes_scale()) {
    if (!unscaled_) {
      unscale(optimizer);
    }
    item(found_inf_);  // a step that overflowed would be left out
    optimizer.step();
    return;
  }
  // The fused kernel unscales by itself; the flag is found with a scale of one.
  const OpScope scope{"grad_scaler"};
  if (!unscaled_) {
    Locals locals;
    Tensor& inverse_scale = locals.add(empty({}, Dtype::float32));
    Tensor& found_inf = locals.add(empty({}, Dtype::float32));
    unscale_grads(optimizer, inverse_scale, found_inf);
  }
  const Tensor sum = found_inf_ + 0.0;  // over the devices
  optimizer.step();
}

void GradScaler::update() {
  found_inf_.reset();
  unscaled_ = false;
}

}  // namespace peakcast::torch
