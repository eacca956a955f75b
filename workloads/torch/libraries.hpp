#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "sim/device/outside.hpp"
#include "workloads/gpu_traits.hpp"
#include "workloads/torch/tensor.hpp"
#include "workloads/torch/trace_writer.hpp"

namespace peakcast::torch {

/// What the driver and the libraries take on first use: workspaces in the caching allocator, and
/// what lies outside it and moves what cudaMalloc returns. From the driver's mmap calls and
/// /proc/self/maps in PyTorch 2.11.0+cu130 on an H100 (2026-11).
class Libraries {
 public:
  /// `writer` outlives this.
  Libraries(TraceWriter& writer, const GpuTraits& gpu) : writer_{writer}, gpu_{gpu} {}

  /// Called by each GEMM after its output exists: the first on a (thread, stream) pair makes the
  /// cuBLAS workspace, and for the biased kind also cuBLASLt's; both stay for good.
  void use_cublas(bool lt);
  /// A kernel of ATen's or NCCL's own (not a copy, a concatenation or a random fill): 1792 bytes of
  /// local memory per thread, and 2 MiB.
  void use_kernels();
  /// A kernel that can fail an assertion: the device's malloc heap (8 MiB, cudaLimitMallocHeapSize)
  /// and the buffers of assert and printf, together 10 MiB.
  void use_device_heap();
  /// cuDNN maps its engines.
  void use_cudnn();
  /// cuDNN computes this attention. PyTorch keeps its plans by shape and thread
  /// (aten/src/ATen/native/cudnn/MHA.cpp): the first of them is built here.
  void use_attention_plan(const AttentionWork& work);
  /// A collective among so many ranks: NCCL makes a communicator for the first.
  void use_nccl(std::int64_t ranks);
  /// The model was wrapped: sharding, ddp, zero_1_2 or zero_3.
  void use_wrapper(OutsideWhen wrapper) { used_.parallel = wrapper; }

  /// What no allocator has seen of all this.
  [[nodiscard]] const OutsideUse& used() const { return used_; }

 private:
  struct Workspace {
    HostThread thread{};
    StreamId stream{};
    bool lt{};
    Ref<Storage> storage{};
  };
  TraceWriter& writer_;
  GpuTraits gpu_;
  bool used_kernels_{};
  bool used_device_heap_{};
  bool used_cudnn_{};
  std::set<std::pair<HostThread, AttentionWork>> attention_plans_{};
  std::vector<Workspace> workspaces_{};
  OutsideUse used_{};
};

}  // namespace peakcast::torch
