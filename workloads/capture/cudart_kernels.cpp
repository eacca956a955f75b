// Kernels: their names as the fat binaries register them, and their launches.
#include <cstdint>
#include <string>
#include <vector>

#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/cudart.hpp"
#include "workloads/capture/kernel_costs.hpp"
#include "workloads/capture/launch.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/python_hooks.hpp"
#include "workloads/capture/stub.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

struct Configuration {
  Dim3 grid;
  Dim3 block;
  std::size_t shared;
  StreamHandle stream;
};
thread_local std::vector<Configuration> configurations;

}  // namespace

int launch_kernel(std::string_view name, const Dim3& grid, const Dim3& block, void** arguments,
                  StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Machine& all = machine();
  Stream* const stream = all.find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  values_launched(name, grid, block, arguments);
  const std::uint64_t threads =
      std::uint64_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z;
  all.launch(*stream, handle, name, kernel_time(all.settings.gpu, name, threads, arguments),
             threads);
  return set_error(kSuccess);
}

}  // namespace peakcast::capture

using namespace peakcast::capture;

namespace {

int launch_function(const void* function, Dim3 grid, Dim3 block, void** arguments,
                    StreamHandle stream) {
  const auto& kernels = machine().kernels;
  const auto found = kernels.find(function);
  return launch_kernel(found != kernels.end() ? std::string_view{found->second} : "unknown", grid,
                       block, arguments, stream);
}

}  // namespace

PEAKCAST_EXPORT void** __cudaRegisterFatBinary(void* binary) {
  install_rank_hooks();  // the first that PyTorch's libraries call when they are loaded
  return new void* {binary};
}
PEAKCAST_EXPORT void __cudaRegisterFatBinaryEnd(void** /*handle*/) {}
PEAKCAST_EXPORT void __cudaUnregisterFatBinary(void** handle) { delete handle; }
PEAKCAST_EXPORT char __cudaInitModule(void** /*handle*/) { return 1; }
PEAKCAST_EXPORT void __cudaRegisterFunction(void** /*handle*/, const char* function,
                                            char* /*device*/, const char* name, int /*threads*/,
                                            void* /*tid*/, void* /*bid*/, void* /*block*/,
                                            void* /*grid*/, int* /*warp*/) {
  const std::lock_guard lock{machine().mutex};
  machine().kernels.emplace(function, name);
}
PEAKCAST_EXPORT void __cudaRegisterVar(void** /*handle*/, char* /*host*/, char* /*device*/,
                                       const char* /*name*/, int /*external*/, std::size_t /*size*/,
                                       int /*constant*/, int /*global*/) {}
PEAKCAST_EXPORT unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, std::size_t shared,
                                                     StreamHandle stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
PEAKCAST_EXPORT int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, std::size_t* shared,
                                               StreamHandle* stream) {
  if (configurations.empty()) {
    return set_error(kInvalidValue);
  }
  const Configuration& top = configurations.back();
  *grid = top.grid;
  *block = top.block;
  *shared = top.shared;
  *stream = top.stream;
  configurations.pop_back();
  return set_error(kSuccess);
}
/// CUDA 13 launches by the kernel's handle: here the host's function.
PEAKCAST_EXPORT int __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int __cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments,
                                       std::size_t /*shared*/, StreamHandle stream) {
  return launch_function(kernel, grid, block, arguments, stream);
}
PEAKCAST_EXPORT int cudaLaunchKernel(const void* function, Dim3 grid, Dim3 block, void** arguments,
                                     std::size_t /*shared*/, StreamHandle stream) {
  return launch_function(function, grid, block, arguments, stream);
}
PEAKCAST_EXPORT int cudaLaunchCooperativeKernel(const void* function, Dim3 grid, Dim3 block,
                                                void** arguments, std::size_t /*shared*/,
                                                StreamHandle stream) {
  return launch_function(function, grid, block, arguments, stream);
}
PEAKCAST_EXPORT int cudaLaunchKernelExC(const LaunchConfig* config, const void* function,
                                        void** arguments) {
  return launch_function(function, config->grid, config->block, arguments, config->stream);
}
PEAKCAST_EXPORT int cudaFuncGetAttributes(FunctionAttributes* out, const void* /*function*/) {
  const Machine& all = machine();
  const int architecture =
      10 * all.settings.gpu.spec.compute_major + all.settings.gpu.spec.compute_minor;
  *out = {};
  out->max_threads_per_block = 1024;
  out->registers = 32;
  out->ptx_version = architecture;
  out->binary_version = architecture;
  out->max_dynamic_shared_bytes = 48 << 10;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaFuncSetAttribute(const void* /*function*/, int /*attribute*/,
                                         int /*value*/) {
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaFuncSetCacheConfig(const void* /*function*/, int /*config*/) {
  return set_error(kSuccess);
}
/// Threads alone limit how many blocks fit: 2048 on a multiprocessor of 8.0 and 9.0. Registers and
/// shared memory, which the driver reads from the kernel's code, are not known here.
PEAKCAST_EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                                  const void* /*function*/,
                                                                  int threads,
                                                                  std::size_t /*shared*/) {
  const auto room = static_cast<int>(machine().settings.gpu.threads_per_multiprocessor);
  *blocks = threads > 0 ? std::min(32, room / threads) : 0;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int threads, std::size_t shared, unsigned /*flags*/) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}
PEAKCAST_EXPORT int cudaMemcpyToSymbol(const void* /*symbol*/, const void* /*from*/,
                                       std::size_t /*size*/, std::size_t /*offset*/, int /*kind*/) {
  return set_error(kSuccess);
}
/// A symbol's memory on the card: some of it, of 64 KiB, that all symbols share.
PEAKCAST_EXPORT int cudaGetSymbolAddress(void** address, const void* /*symbol*/) {
  static char symbols[1 << 16];
  *address = symbols;
  return set_error(kSuccess);
}
