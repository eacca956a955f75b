#pragma once

#include <functional>
#include <memory>

#include "workloads/torch/optim.hpp"

/// What DeepSpeed's ZeRO optimizers of all stages do around a step: look for overflow, take the
/// norm of the gradients, clip. Small tensors but for one: norms are taken in float64.
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/utils.py and zero/stage_1_and_2.py, zero/stage3.py.
namespace peakcast::torch {

/// utils.has_inf_or_nan: a flag on the device.
[[nodiscard]] Tensor has_inf_or_nan(const Tensor& grad);
/// utils.is_invalid_grad_norm, read back to the host.
void check_grad_norm(const Tensor& norm);
/// The norm of one gradient in float64, as get_grad_norm_direct takes it.
[[nodiscard]] Tensor grad_norm(const Tensor& grad);
/// get_grad_norm_direct of stages 1 and 2 after its loop: the norm over all ranks in float32; what
/// is infinite or no number becomes -1.
[[nodiscard]] Tensor total_norm(TensorList norms, std::int64_t ranks);
/// The same of stage 3, in float64.
[[nodiscard]] Tensor total_norm_of_shards(TensorList norms, std::int64_t ranks);
/// utils.combine_grad_norm_groups.
[[nodiscard]] Tensor combine_grad_norms(const TensorList& norms);
/// unscale_and_clip_grads: `grads` in place. Precondition: clipping is on (DeepSpeed's default).
void unscale_and_clip(const TensorList& grads, const Tensor& norm);
/// The host waits for a value of the current stream.
void read_back();

/// What steps instead of the script's optimizer.
class ZeroOptimizer final : public Optimizer {
 public:
  ZeroOptimizer(TensorList model_parameters, std::function<void()> step)
      : Optimizer{std::move(model_parameters)}, step_{std::move(step)} {}
  void step() override {
    const GradMode no_grad{false};
    step_();
  }

 private:
  std::function<void()> step_;
};

/// engine.backward(loss): divides the loss by the accumulation steps, scales it (by one where the
/// type needs no scale), runs the pass, then `epilogue`; what it returned dies last.
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/engine.py (backward, _backward_epilogue).
void engine_backward(const Tensor& loss, std::int64_t accumulate,
                     const std::function<void()>& epilogue);

}  // namespace peakcast::torch
