#pragma once

#include <memory>

#include "workloads/parallel/data_parallel.hpp"

namespace peakcast::torch {

/// torch.distributed.fsdp.FullyShardedDataParallel with use_orig_params, one unit per transformer
/// layer and the rest in the root unit: flat parameters, the three side streams, prefetch, the rate
/// limiter, and who records what on which stream.
/// Source: PyTorch 2.11, torch/distributed/fsdp/{_runtime_utils,_flat_param,_init_utils}.py.
[[nodiscard]] std::unique_ptr<DataParallel> make_fsdp1(const RunSpec& spec, Module& model);

}  // namespace peakcast::torch
