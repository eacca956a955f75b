#pragma once

#include <memory>

#include "workloads/run_spec.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::torch {

class GradScaler;

/// torch.optim: state appears in the first step(), parameter by parameter in order.
class Optimizer {
 public:
  explicit Optimizer(TensorList parameters) : parameters_{std::move(parameters)} {}
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;
  virtual void step() = 0;
  /// Sets .grad to None, in parameter order.
  void zero_grad();
  /// Fused kernels take the scale and the overflow flag instead of unscaled gradients.
  [[nodiscard]] virtual bool takes_scale() const { return false; }
  [[nodiscard]] const TensorList& parameters() const { return parameters_; }

 protected:
  TensorList parameters_;
};

[[nodiscard]] std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, TensorList parameters);

/// torch.nn.utils.clip_grad_norm_ (foreach). Returns the norm, which dies with the handle.
Tensor clip_grad_norm(const TensorList& parameters);

/// torch.amp.GradScaler("cuda"), for steps that do not overflow.
/// Source: PyTorch 2.11, torch/amp/grad_scaler.py.
class GradScaler {
 public:
  [[nodiscard]] Tensor scale(const Tensor& loss);
  void unscale(Optimizer& optimizer);
  void step(Optimizer& optimizer);
  void update();

 private:
  /// Checks and unscales all gradients in place; keeps the overflow flag until update().
  void unscale_grads(const Optimizer& optimizer, const Tensor& inverse_scale,
                     const Tensor& found_inf);
  Tensor scale_{};
  Tensor growth_tracker_{};
  Tensor found_inf_{};  ///< of the one device
  bool unscaled_{};
};

}  // namespace peakcast::torch
