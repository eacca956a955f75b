#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "sim/trace/trace.hpp"
#include "workloads/gpu_traits.hpp"
#include "workloads/torch/costs.hpp"
#include "workloads/torch/libraries.hpp"
#include "workloads/torch/modes.hpp"
#include "workloads/torch/setting.hpp"
#include "workloads/torch/tensor.hpp"
#include "workloads/torch/trace_writer.hpp"

namespace peakcast::torch {

class Engine;

struct RuntimeOptions {
  GpuTraits gpu{};
  const CostModel* cost_model{};  ///< null: a pure memory trace, without launches
  bool record_graph{};            ///< build the op graph of the forward pass
};

/// One simulated process: its trace under construction, its modes and what its libraries have
/// taken. Ops reach it through Runtime::current(), which a RuntimeScope sets for the calling
/// thread; runs on different threads do not see each other.
class Runtime final : public TraceWriter, public Modes {
 public:
  /// `trace` outlives this, as what `options` points at.
  Runtime(Trace& trace, const RuntimeOptions& options);
  ~Runtime();
  /// Precondition: inside a RuntimeScope.
  [[nodiscard]] static Runtime& current();

  Libraries libraries;
  void launch(const KernelCost& cost);
  void collective(const CollectiveCost& cost);
  std::uint64_t next_sequence() { return sequence_++; }
  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] const GpuTraits& gpu() const { return gpu_; }

 private:
  GpuTraits gpu_;
  std::uint64_t sequence_{};
  std::unique_ptr<Engine> engine_;
};

/// Makes `runtime` current on this thread until the end of the scope.
class RuntimeScope {
 public:
  explicit RuntimeScope(Runtime& runtime);
  ~RuntimeScope();
  RuntimeScope(const RuntimeScope&) = delete;
  RuntimeScope& operator=(const RuntimeScope&) = delete;

 private:
  Runtime* before_;
};

/// torch.no_grad() / torch.enable_grad().
class GradMode : Setting<bool> {
 public:
  explicit GradMode(bool enabled) : Setting{Runtime::current().grad_enabled, enabled} {}
};
/// with torch.cuda.stream(stream).
class StreamGuard : Setting<StreamId> {
 public:
  explicit StreamGuard(StreamId stream) : Setting{Runtime::current().stream, stream} {}
};
/// Names the operator that runs; nested operators name themselves.
class OpScope : Setting<const char*> {
 public:
  explicit OpScope(const char* name) : Setting{Runtime::current().op_name, name} {}
  /// Also a vertex of the op graph, with edges from these inputs and to what is allocated inside.
  OpScope(const char* name, std::initializer_list<const Tensor*> inputs);
  ~OpScope();

 private:
  std::uint32_t vertex_before_{};
  bool in_graph_{};
};

/// with torch.autocast("cuda", dtype, enabled). The weight copies die when the outermost region
/// ends.
class AutocastScope {
 public:
  AutocastScope(bool enabled, Dtype dtype);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  bool enabled_before_;
  Dtype dtype_before_;
};
/// autocast's cast to its own type (a cached copy for fp32 parameters) or the tensor itself.
[[nodiscard]] Tensor autocast_lower(const Tensor& tensor);
/// autocast's cast of half types to fp32, for ops on the fp32 list.
[[nodiscard]] Tensor autocast_fp32(const Tensor& tensor);

}  // namespace peakcast::torch
