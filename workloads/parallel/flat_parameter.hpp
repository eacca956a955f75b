#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "workloads/parallel/data_parallel.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::torch {

/// One original parameter of a unit.
struct Original {
  Tensor slot{};   ///< what the modules use
  Tensor shard{};  ///< what the optimizer uses: this rank's elements of it, flat
  Shape sizes{};
  std::int64_t offset{};  ///< into this rank's shard
  std::int64_t length{};  ///< elements of it on this rank; may be 0
};

/// What all flat parameters of one FSDP1 run share.
struct FlatLayout {
  std::int64_t ranks{};  ///< that share one flat parameter
  std::int64_t rank{};   ///< among them
  bool sharded{};        ///< false: NO_SHARD
  std::optional<Dtype> param_dtype{};
  std::optional<Dtype> reduce_dtype{};
};

/// FSDP1's FlatParamHandle: the parameters of one wrapped module in one flat tensor, of which every
/// rank keeps a piece, and the views that stand for them in the module and in the optimizer.
/// Source: PyTorch 2.11, torch/distributed/fsdp/_flat_param.py.
class FlatParameter {
 public:
  /// `claim` says whether a parameter is this one's: not another's, nor tied to one that is in.
  /// `is_unit`: of a child that has a flat parameter of its own.
  using Claim = std::function<bool(const Tensor&)>;
  using IsUnit = std::function<bool(const Module&)>;
  /// Flattens the module's parameters and keeps this rank's piece. `layout` outlives this.
  FlatParameter(Module& module, const FlatLayout& layout, const Claim& claim,
                const IsUnit& is_unit);

  Module* wrapped{};
  std::vector<Original> originals{};
  std::int64_t elements{};  ///< of the flat parameter, padding included
  Chunk chunk{};
  Dtype dtype{};          ///< of the parameters
  Dtype compute_dtype{};  ///< of forward and backward
  Dtype reduce_dtype{};
  Tensor flat{};         ///< the FlatParameter: a leaf whose data changes
  Tensor local_shard{};  ///< this rank's elements, padded
  Tensor mp_shard{};     ///< the same in the compute type; storage comes and goes
  Tensor full{};         ///< all ranks' elements; storage comes and goes
  Tensor saved_grad{};   ///< _saved_grad_shard

  [[nodiscard]] bool mixed() const { return compute_dtype != dtype; }
  [[nodiscard]] bool unsharded() const { return full.storage()->size() > Bytes{}; }
  /// The tensors for unsharding, made empty (init_flat_param_attributes).
  void prepare();
  /// One split of the flat parameter, a view per original.
  void use_views();
  /// `ended`: the forward's views end with it.
  void use_sharded_views(bool ended);
  void use_sharded_grad_views();

 private:
  void flatten(const Claim& claim, const IsUnit& is_unit);
  void shard();
  void count_views() const;
  const FlatLayout& layout_;
  std::vector<std::int64_t> pieces_{};        ///< elements of every piece of the flat parameter
  std::vector<std::int64_t> originals_at_{};  ///< per piece: into originals, or -1 for padding
};

}  // namespace peakcast::torch
