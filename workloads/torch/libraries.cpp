#include "workloads/torch/libraries.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "workloads/torch/setting.hpp"

namespace peakcast::torch {
namespace {

/// Default cuBLAS workspace. Source: PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp: 4096 x 8 KiB
/// on compute capability 9.0, else 4096 KiB x 2 + 16 KiB x 8.
Bytes cublas_workspace(const GpuTraits& gpu) {
  using namespace literals;
  return gpu.compute_capability == 90 ? 4096 * 8_KiB : 2 * 4096_KiB + 8 * 16_KiB;
}
/// Default cuBLASLt workspace, a block of its own. Source: the H100 recordings of PyTorch 2.11.0.
constexpr Bytes kCublasLtWorkspace{1 << 20};

// use_kernels() and the like say what these are.
constexpr Bytes kLocalMemory{1792};
constexpr Bytes kKernelCode{2 << 20};
constexpr Bytes kDeviceHeap{10 << 20};
/// libcudnn_engines_precompiled and two more, as mapped.
constexpr std::array<Bytes, 3> kCudnnLibraries{Bytes{240 << 20}, Bytes{64 << 20}, Bytes{34 << 20}};
/// What cuBLAS takes when it is made, beside the workspace that PyTorch gives it.
constexpr std::array<Bytes, 2> kCublasOwn{Bytes{2 << 20}, Bytes{64 << 20}};

}  // namespace

void Libraries::use_kernels() {
  if (!std::exchange(used_kernels_, true)) {
    writer_.local_memory(kLocalMemory);
    writer_.driver_memory(kKernelCode);
  }
}

void Libraries::use_device_heap() {
  if (!std::exchange(used_device_heap_, true)) {
    writer_.driver_memory(kDeviceHeap);
  }
}

void Libraries::use_cudnn() {
  if (!std::exchange(used_cudnn_, true)) {
    for (const Bytes library : kCudnnLibraries) {
      static_cast<void>(writer_.host_allocate(library));
    }
  }
}

void Libraries::use_nccl(std::int64_t ranks) {
  used_.nccl_ranks = std::max(used_.nccl_ranks, ranks);
}

void Libraries::use_attention_plan(const AttentionWork& work) {
  used_.cudnn_attention = true;
  if (attention_plans_.emplace(writer_.thread, work).second) {
    writer_.host_work(HostWork::attention_plan);
    writer_.wait_within_driver();  // it loads kernels
  }
}

void Libraries::use_cublas(bool lt) {
  for (const Workspace& workspace : workspaces_) {
    if (workspace.thread == writer_.thread && workspace.stream == writer_.stream &&
        workspace.lt == lt) {
      return;
    }
  }
  if (workspaces_.empty()) {
    for (const Bytes size : kCublasOwn) {
      writer_.driver_memory(size);
    }
  }
  const Setting<const char*> name{writer_.op_name, lt ? "cublaslt_workspace" : "cublas_workspace"};
  workspaces_.push_back({writer_.thread, writer_.stream, lt,
                         make_ref<Storage>(lt ? kCublasLtWorkspace : cublas_workspace(gpu_),
                                           Device::cuda, Category::workspace)});
}

}  // namespace peakcast::torch
