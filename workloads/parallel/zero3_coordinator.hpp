#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "workloads/parallel/data_parallel.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::torch {

/// ZeRO-3's PartitionedParameterCoordinator: every rank keeps a shard of each parameter; a module's
/// parameters are gathered before its forward and its backward and let go after, in the order that
/// the first iteration recorded, with what comes next fetched ahead.
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/zero/partitioned_param_coordinator.py and
/// parameter_offload.py.
class Zero3Coordinator {
 public:
  enum class Status : std::uint8_t { not_available, inflight, available };
  static constexpr std::int64_t kNever = -10'000'000'000;
  struct Parameter {
    Tensor slot{};  ///< the model's; without elements unless gathered
    Shape sizes{};
    std::int64_t elements{};
    std::int64_t shard{};  ///< elements of one rank
    std::int64_t begin{};  ///< of this rank's shard among all shards
    Dtype wire{};          ///< gathered and reduced in this type
    bool persists{};
    Status status{Status::available};
    std::set<std::size_t> active{};  ///< modules that use it now
    std::int64_t fetched_for{kNever};
  };
  /// `types`: those that parameters travel in, in the order in which they are gathered. Hooks into
  /// the model, which outlives this.
  Zero3Coordinator(Module& model, std::vector<Parameter> parameters, std::vector<Dtype> types,
                   std::int64_t ranks);
  Zero3Coordinator(const Zero3Coordinator&) = delete;
  Zero3Coordinator& operator=(const Zero3Coordinator&) = delete;

  [[nodiscard]] std::vector<Parameter>& parameters() { return parameters_; }
  [[nodiscard]] const std::vector<Parameter>& parameters() const { return parameters_; }
  /// This rank's pieces of all parameters, side by side.
  void set_shards(const Tensor& shards) { shards_ = shards; }
  [[nodiscard]] const Tensor& shards() const { return shards_; }

  void gather_now(Parameter& parameter);
  void release(Parameter& parameter);
  void forget_available() { available_ = 0; }
  /// Modules whose inputs take no gradient have not been told that their backward is over.
  void end_backward();
  /// Before the step: whatever is gathered goes.
  void partition_all();
  /// Parameters that persist are there again before the next forward.
  void gather_persistent();

 private:
  /// What the hooks know of a module.
  struct Hooked {
    std::vector<std::size_t> own{};  ///< its parameters, ascending
    std::int64_t grads_remaining{};
    std::int64_t forwards{};  ///< that no backward has answered
  };
  /// What one call gathers, an all-gather for each type. Waiting for one parameter waits for all.
  struct Gather {
    struct Part {
      Dtype type{};
      std::vector<std::size_t> members{};
      Tensor buffer{};
    };
    std::vector<Part> parts{};
    bool coalesced{};  ///< several parameters share a buffer, and are copied out of it
    bool complete{};
  };
  struct Traced {
    std::size_t parameter{};
    std::int64_t step{};
  };
  enum class Trace : std::uint8_t { invalid, record, complete };

  void hook(Module& model);
  void enter(std::size_t module, const std::vector<Tensor*>& arguments);
  void leave(std::size_t module, TensorList& outputs);
  void reset_step();
  void fetch(std::size_t module, bool forward);
  void prefetch(const Hooked& module);
  void release(std::size_t module, bool forward);
  [[nodiscard]] const std::vector<std::size_t>& may_go(std::size_t module);
  void gather(const std::vector<std::size_t>& wanted);
  void wait(Gather& gathering);
  void point_at(Parameter& parameter, const Tensor& buffer) const;
  [[nodiscard]] Tensor shard(std::size_t i) const;

  std::vector<Parameter> parameters_;
  std::vector<Dtype> types_;
  std::int64_t ranks_{};
  Dtype dtype_{};  ///< of the model's parameters
  std::vector<Hooked> modules_{};
  StreamId gather_stream_{};
  Tensor shards_{};
  Trace trace_{};
  std::int64_t step_{};
  std::vector<std::size_t> module_order_{};
  std::vector<Traced> parameter_order_{};
  std::deque<Traced> queue_{};
  std::map<std::pair<std::size_t, std::int64_t>, std::vector<std::size_t>> released_at_{};
  std::vector<std::pair<std::size_t, std::shared_ptr<Gather>>> inflight_{};
  std::deque<std::uint32_t> fetch_events_{};
  std::int64_t available_{};
  std::vector<std::size_t> active_backward_{};  ///< modules, the latest last
};

}  // namespace peakcast::torch
