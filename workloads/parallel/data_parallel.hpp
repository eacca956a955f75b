#pragma once

#include <cstdint>
#include <memory>

#include "workloads/run_spec.hpp"
#include "workloads/torch/module.hpp"
#include "workloads/torch/optim.hpp"

namespace peakcast::torch {

/// A model spread over `world` ranks, seen from one of them: FSDP(model), fully_shard(model),
/// DistributedDataParallel(model) or DeepSpeed's engine. It moves the model to the card and hooks
/// into its modules; the model is then called as before.
///
/// Borrows the model, which outlives it. The cost of a run does not depend on the number of ranks
/// (but under ZeRO, a little).
class DataParallel {
 public:
  virtual ~DataParallel() = default;
  /// What model.parameters() gives once the model is wrapped, in that order: what the optimizer
  /// steps on. Parameters without elements on this rank are among them and never get a gradient.
  [[nodiscard]] virtual TensorList parameters() = 0;
  /// What torch.optim's optimizer becomes; ZeRO wraps it.
  [[nodiscard]] virtual std::unique_ptr<Optimizer> optimizer(OptimizerKind kind) {
    return make_optimizer(kind, parameters());
  }
  /// The first thing of a training step, before the gradients are dropped.
  virtual void begin_iteration() {}
  /// Right before model(**data). (Hooks on the root module do the rest.)
  virtual void before_forward() {}
  /// Within no_sync(): gradients stay local and are added up until it is on again.
  virtual void set_gradient_sync(bool /*on*/) {}
  /// What loss.backward() becomes. An engine's divides the loss by the accumulation steps.
  virtual void backward(const Tensor& loss) { torch::backward(loss); }
  /// DeepSpeed's engine: backward() scales the loss, the optimizer's step() clips and lets go of
  /// the gradients.
  [[nodiscard]] virtual bool is_engine() const { return false; }
};

/// Wraps a model that is still on the host, and brings it to the card: what replaces
/// model.to("cuda"). `spec.parallel` says how; Parallel::none gives null and touches nothing.
/// Precondition: 0 <= spec.rank < spec.world.
[[nodiscard]] std::unique_ptr<DataParallel> make_data_parallel(const RunSpec& spec, Module& model);

/// Cards per node: who shares the fast links, and how HYBRID_SHARD splits its groups. A DGX node.
inline constexpr std::int64_t kCardsPerNode = 8;

/// A rank's piece of `elements` that are cut into chunks of ceil(elements / ranks), as torch.chunk
/// does: later ranks may get less, or nothing.
struct Chunk {
  std::int64_t begin{};
  std::int64_t length{};  ///< of this rank's piece
  std::int64_t padded{};  ///< of the first rank's piece: what every rank allocates
};
[[nodiscard]] Chunk chunk_of(std::int64_t elements, std::int64_t ranks, std::int64_t rank);

/// stream.wait_stream(other): what is on `other` now comes before what `stream` gets next.
void wait_stream(StreamId stream, StreamId other);

}  // namespace peakcast::torch
