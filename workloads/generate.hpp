#pragma once

#include <memory>
#include <optional>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"
#include "workloads/model_config.hpp"
#include "workloads/run_spec.hpp"
#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/runtime.hpp"

namespace peakcast {

struct GenerateOptions {
  std::optional<GpuTraits> gpu{};        ///< null: those of the card spec.gpu
  const torch::CostModel* cost_model{};  ///< null: no launches, allocations and frees only
};

/// The trace of a training run that was made, not recorded.
struct Program : Trace {
  OutsideUse used{};  ///< what it loads on the card beside what it allocates
};

/// The program of a training run: model to the device, optimizer, then per iteration the phases
/// "forward", "backward" and "step" (with "zero_grad" and "data" where the loop has them). Marks of
/// kind iteration and phase say where they begin.
/// A pure function of its arguments: equal specs give equal programs. Errors name the field.
[[nodiscard]] Expected<Program> generate(const RunSpec& spec, const GenerateOptions& options = {});
/// The same with the config at hand.
[[nodiscard]] Expected<Program> generate(const RunSpec& spec, const ModelConfig& config,
                                         const GenerateOptions& options = {});

/// The op graph of one forward pass of the run's first shape, in its precision, on one card.
[[nodiscard]] Expected<std::unique_ptr<torch::OpGraph>> forward_graph(const RunSpec& spec);

}  // namespace peakcast
