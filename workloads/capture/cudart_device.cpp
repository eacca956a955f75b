// The runtime's functions about cards: how many, which, what they can, and what went wrong.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/cudart.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/python_hooks.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

thread_local int last_error = kSuccess;

/// Shared memory of a block and of a multiprocessor by compute capability. Source: CUDA C++
/// Programming Guide, "Technical Specifications per Compute Capability".
struct SharedMemory {
  int optin;
  int per_multiprocessor;
};
SharedMemory shared_memory(const DeviceSpec& spec) {
  constexpr int kKiB = 1024;
  const int capability = 10 * spec.compute_major + spec.compute_minor;
  if (capability >= 120) {
    return {99 * kKiB, 100 * kKiB};
  }
  if (capability >= 90) {
    return {227 * kKiB, 228 * kKiB};
  }
  if (capability == 86 || capability == 89) {
    return {99 * kKiB, 100 * kKiB};
  }
  if (capability >= 80) {
    return {163 * kKiB, 164 * kKiB};
  }
  return capability == 75 ? SharedMemory{64 * kKiB, 64 * kKiB} : SharedMemory{96 * kKiB, 96 * kKiB};
}

template <int kRelease>
int fill_properties(DeviceProperties<kRelease>* out, int card) {
  Machine& all = machine();
  if (card < 0 || card >= all.settings.cards) {
    return set_error(kInvalidDevice);
  }
  const GpuDescription& gpu = all.settings.gpu;
  const SharedMemory shared = shared_memory(gpu.spec);
  *out = {};
  std::snprintf(out->name, sizeof out->name, "%s", gpu.spec.name.c_str());
  out->uuid[0] = static_cast<unsigned char>(card + 1);
  out->total_memory = static_cast<std::size_t>(gpu.spec.total.count());
  out->shared_per_block = 48 << 10;
  out->registers_per_block = 65536;
  out->warp_size = 32;
  out->memory_pitch = 0x7fffffff;
  out->max_threads_per_block = 1024;
  std::copy_n(std::begin({1024, 1024, 64}), 3, out->max_threads_dim);
  std::copy_n(std::begin({0x7fffffff, 65535, 65535}), 3, out->max_grid);
  out->constant_memory = 65536;
  out->major = gpu.spec.compute_major;
  out->minor = gpu.spec.compute_minor;
  out->texture_alignment = 512;
  out->texture_pitch_alignment = 32;
  out->multiprocessors = static_cast<int>(gpu.multiprocessors);
  out->can_map_host = 1;
  out->concurrent_kernels = 1;
  out->ecc = 1;
  out->pci_bus = card + 1;
  out->async_engines = 3;
  out->unified_addressing = 1;
  out->memory_bus_width = 5120;
  out->l2_cache = static_cast<int>(all.settings.gpu.l2_cache.count());
  out->max_threads_per_multiprocessor = static_cast<int>(gpu.threads_per_multiprocessor);
  out->stream_priorities = 1;
  out->global_l1 = 1;
  out->local_l1 = 1;
  out->shared_per_multiprocessor = static_cast<std::size_t>(shared.per_multiprocessor);
  out->registers_per_multiprocessor = 65536;
  out->managed_memory = 1;
  out->concurrent_managed_access = 1;
  out->compute_preemption = 1;
  out->cooperative_launch = 1;
  out->shared_per_block_optin = static_cast<std::size_t>(shared.optin);
  out->max_blocks_per_multiprocessor = 32;
  out->reserved_shared_per_block = 1024;
  out->host_register = 1;
  out->memory_pools = 1;
  return set_error(kSuccess);
}

}  // namespace

int set_error(int error) {
  if (error != kSuccess) {
    last_error = error;
  }
  return error;
}

/// cudaDeviceAttr and CUdevice_attribute: the same numbers.
int device_attribute(int* value, int attribute, int card) {
  const Machine& all = machine();
  if (card < 0 || card >= all.settings.cards) {
    return kInvalidDevice;
  }
  const GpuDescription& gpu = all.settings.gpu;
  const SharedMemory shared = shared_memory(gpu.spec);
  struct Row {
    int attribute;
    std::int64_t value;
  };
  const Row rows[] = {{1, 1024},
                      {2, 1024},
                      {3, 1024},
                      {4, 64},
                      {5, 0x7fffffff},
                      {6, 65535},
                      {7, 65535},
                      {8, 48 << 10},
                      {9, 65536},
                      {10, 32},
                      {11, 0x7fffffff},
                      {12, 65536},
                      {13, 1'980'000},
                      {14, 512},
                      {16, gpu.multiprocessors},
                      {19, 1},
                      {31, 1},
                      {32, 1},
                      {33, card + 1},
                      {36, 2'619'000},
                      {37, 5120},
                      {38, all.settings.gpu.l2_cache.count()},
                      {39, gpu.threads_per_multiprocessor},
                      {40, 3},
                      {41, 1},
                      {75, gpu.spec.compute_major},
                      {76, gpu.spec.compute_minor},
                      {78, 1},
                      {79, 1},
                      {80, 1},
                      {81, shared.per_multiprocessor},
                      {82, 65536},
                      {83, 1},
                      {89, 1},
                      {90, 1},
                      {95, 1},
                      {97, shared.optin},
                      {99, 1},
                      {102, 1},  // virtual memory management
                      {103, 1},  // handles as file descriptors
                      {106, 32},
                      {111, 1024},
                      {115, 1},  // memory pools
                      {120, gpu.spec.compute_major >= 9 ? 1 : 0}};
  *value = 0;
  for (const Row& row : rows) {
    if (row.attribute == attribute) {
      *value = static_cast<int>(row.value);
    }
  }
  return kSuccess;
}

}  // namespace peakcast::capture

using namespace peakcast::capture;

PEAKCAST_EXPORT int cudaGetDeviceCount(int* count) {
  *count = machine().settings.cards;
  install_python_hooks();
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGetDevice(int* card) {
  *card = current_card();
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaSetDevice(int card) {
  if (card < 0 || card >= machine().settings.cards) {
    return set_error(kInvalidDevice);
  }
  current_card() = card;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaInitDevice(int card, unsigned /*flags*/, unsigned /*more*/) {
  return card < machine().settings.cards ? kSuccess : set_error(kInvalidDevice);
}
PEAKCAST_EXPORT int cudaGetDeviceProperties(DeviceProperties<13>* out, int card) {
  return fill_properties(out, card);
}
PEAKCAST_EXPORT int cudaGetDeviceProperties_v2(DeviceProperties<12>* out, int card) {
  return fill_properties(out, card);
}
PEAKCAST_EXPORT int cudaDeviceGetAttribute(int* value, int attribute, int card) {
  return set_error(device_attribute(value, attribute, card));
}
PEAKCAST_EXPORT int cudaDeviceGetPCIBusId(char* text, int length, int card) {
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0", card + 1);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceGetByPCIBusId(int* card, const char* text) {
  unsigned domain = 0;
  unsigned bus = 1;
  std::sscanf(text, "%x:%x", &domain, &bus);
  *card = static_cast<int>(bus) - 1;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceSynchronize() {
  const std::lock_guard lock{machine().mutex};
  machine().synchronize_card();
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceReset() { return set_error(kSuccess); }
PEAKCAST_EXPORT int cudaSetDeviceFlags(unsigned /*flags*/) { return set_error(kSuccess); }
PEAKCAST_EXPORT int cudaDeviceCanAccessPeer(int* can, int a, int b) {
  *can = a != b ? 1 : 0;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceEnablePeerAccess(int /*card*/, unsigned /*flags*/) {
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDriverGetVersion(int* version) {
  *version = 13000;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGetLastError() { return std::exchange(last_error, kSuccess); }
PEAKCAST_EXPORT int cudaPeekAtLastError() { return last_error; }
PEAKCAST_EXPORT int cudaProfilerStart() { return set_error(kSuccess); }
PEAKCAST_EXPORT int cudaProfilerStop() { return set_error(kSuccess); }

// Texts: PyTorch shows them to its user, so they are the runtime's own words.
PEAKCAST_EXPORT const char* cudaGetErrorName(int error) {
  switch (error) {
    case kSuccess:
      return "cudaSuccess";
    case kInvalidValue:
      return "cudaErrorInvalidValue";
    case kOutOfMemory:
      return "cudaErrorMemoryAllocation";
    case kInvalidDevice:
      return "cudaErrorInvalidDevice";
    case kInvalidHandle:
      return "cudaErrorInvalidResourceHandle";
    case kNotReady:
      return "cudaErrorNotReady";
    case kNotSupported:
      return "cudaErrorNotSupported";
    default:
      return "cudaErrorUnknown";
  }
}
PEAKCAST_EXPORT const char* cudaGetErrorString(int error) {
  switch (error) {
    case kSuccess:
      return "no error";
    case kInvalidValue:
      return "invalid argument";
    case kOutOfMemory:
      return "out of memory";
    case kInvalidDevice:
      return "invalid device ordinal";
    case kInvalidHandle:
      return "invalid resource handle";
    case kNotReady:
      return "device not ready";
    case kNotSupported:
      return "operation not supported";
    default:
      return "unknown error";
  }
}
