#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "workloads/torch/tensor.hpp"

namespace peakcast::torch {

class SavedTensorHooks;

/// The modes that PyTorch keeps per thread or per process. Set them through the guards in
/// runtime.hpp.
struct Modes {
  bool grad_enabled{true};

  /// torch.autocast. `cache` holds the weight copies until the outermost region ends.
  struct Autocast {
    bool enabled{};
    Dtype dtype{Dtype::bfloat16};
    bool cache_enabled{true};
    int nesting{};
    std::vector<std::pair<Ref<TensorImpl>, Tensor>> cache{};     ///< parameter -> copy
    std::unordered_map<const TensorImpl*, std::size_t> index{};  ///< into cache; never iterated
  } autocast{};

  /// A TorchDispatchMode is active (a FLOP counter, a log of operators): every tensor is taken for
  /// one that Python may watch (isTensorSubclassLike), and where PyTorch would change a tensor of
  /// its own in place it makes a new one.
  bool dispatch_mode{};

  /// DeepSpeed puts a function of its own in place of F.linear at stage 3: one that saves the
  /// parameter and not a view of it.
  bool memory_efficient_linear{};

  std::vector<Ref<SavedTensorHooks>> saved_tensor_hooks{};  ///< the innermost is last
};

}  // namespace peakcast::torch
