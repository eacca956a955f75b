// The driver's functions, which programs look up by name: virtual memory, contexts, modules.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <sys/mman.h>

#include "workloads/capture/allocator_tap.hpp"
#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/cudart.hpp"
#include "workloads/capture/launch.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

/// Physical memory of cuMemCreate: which card's, and how much.
struct Physical {
  int card{};
  PhysicalId id{};
  Bytes size{};
};
/// By handle; handles are never reused.
std::map<std::uint64_t, Physical>& physical() {
  static auto* const map = new std::map<std::uint64_t, Physical>;
  return *map;
}
std::uint64_t next_physical = 1;

struct AllocationProperties {
  int type;
  int handle_types;
  struct {
    int type;
    int id;
  } location;
};

Card& card_at(std::uint64_t address) {
  const int card = card_of(reinterpret_cast<const void*>(address));
  return *machine().cards[static_cast<std::size_t>(card < 0 ? 0 : card)];
}

Bytes bytes(std::size_t size) { return Bytes{static_cast<std::int64_t>(size)}; }

/// The one context that a card has.
void* context_of(int card) {
  return reinterpret_cast<void*>(0x6000 + static_cast<std::uintptr_t>(card) * 0x10);
}

/// A module's function: only its name.
struct Function {
  char name[256];
};

}  // namespace
}  // namespace peakcast::capture

using namespace peakcast::capture;
using peakcast::Address;

PEAKCAST_EXPORT int cuInit(unsigned /*flags*/) { return kSuccess; }
PEAKCAST_EXPORT int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
PEAKCAST_EXPORT int cuDeviceGetCount(int* count) {
  *count = machine().settings.cards;
  return kSuccess;
}
PEAKCAST_EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < machine().settings.cards ? kSuccess : kInvalidDevice;
}
PEAKCAST_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int card) {
  return device_attribute(value, attribute, card);
}
PEAKCAST_EXPORT int cuDeviceGetName(char* name, int length, int /*card*/) {
  std::snprintf(name, static_cast<std::size_t>(length), "%s",
                machine().settings.gpu.spec.name.c_str());
  return kSuccess;
}
PEAKCAST_EXPORT int cuDeviceTotalMem_v2(std::size_t* total, int /*card*/) {
  *total = static_cast<std::size_t>(machine().settings.gpu.spec.total.count());
  return kSuccess;
}
PEAKCAST_EXPORT int cuDevicePrimaryCtxGetState(int /*card*/, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return kSuccess;
}
PEAKCAST_EXPORT int cuDevicePrimaryCtxRetain(void** context, int card) {
  *context = context_of(card);
  return kSuccess;
}
PEAKCAST_EXPORT int cuCtxGetCurrent(void** context) {
  *context = context_of(current_card());
  return kSuccess;
}
PEAKCAST_EXPORT int cuCtxSetCurrent(void* /*context*/) { return kSuccess; }
PEAKCAST_EXPORT int cuCtxPushCurrent_v2(void* /*context*/) { return kSuccess; }
PEAKCAST_EXPORT int cuCtxPopCurrent_v2(void** context) { return cuCtxGetCurrent(context); }
PEAKCAST_EXPORT int cuCtxGetDevice(int* card) {
  *card = current_card();
  return kSuccess;
}
PEAKCAST_EXPORT int cuGetErrorString(int error, const char** text) {
  *text = error == kOutOfMemory ? "out of memory" : error == kSuccess ? "no error" : "error";
  return kSuccess;
}
PEAKCAST_EXPORT int cuGetErrorName(int error, const char** text) {
  *text = error == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == kSuccess   ? "CUDA_SUCCESS"
                                : "CUDA_ERROR_UNKNOWN";
  return kSuccess;
}
PEAKCAST_EXPORT int cuPointerGetAttribute(void* data, int attribute, std::uint64_t address) {
  constexpr int kContext = 1;
  constexpr int kMemoryType = 2;
  constexpr int kDevicePointer = 3;
  constexpr int kDeviceOrdinal = 9;
  const int card = card_of(reinterpret_cast<const void*>(address));
  if (card < 0) {
    return kInvalidValue;
  }
  if (attribute == kContext) {
    void* const context = context_of(card);
    std::memcpy(data, &context, sizeof context);
  } else if (attribute == kDevicePointer) {
    std::memcpy(data, &address, sizeof address);
  } else {
    const int value = attribute == kMemoryType ? 2 : attribute == kDeviceOrdinal ? card : 0;
    std::memcpy(data, &value, sizeof value);
  }
  return kSuccess;
}

PEAKCAST_EXPORT int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock{machine().mutex};
  *free = static_cast<std::size_t>(machine().current().memory.free_memory().count());
  *total = static_cast<std::size_t>(machine().settings.gpu.spec.total.count());
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemGetAllocationGranularity(std::size_t* granularity,
                                                  const AllocationProperties* /*properties*/,
                                                  int /*option*/) {
  *granularity = static_cast<std::size_t>(machine().settings.gpu.spec.granularity.count());
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemAddressReserve(std::uint64_t* address, std::size_t size,
                                        std::size_t /*alignment*/, std::uint64_t /*hint*/,
                                        unsigned long long /*flags*/) {
  const void* const caller = __builtin_return_address(0);
  if (is_pytorch_allocator(caller)) {
    tap_allocator();
  }
  const std::lock_guard lock{machine().mutex};
  const auto got = machine().current().reserve(bytes(size));
  *address = got ? got->value() : 0;
  return got ? kSuccess : kOutOfMemory;
}
PEAKCAST_EXPORT int cuMemAddressFree(std::uint64_t address, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  card_at(address).unreserve(Address{address}, bytes(size));
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemCreate(std::uint64_t* handle, std::size_t size,
                                const AllocationProperties* properties,
                                unsigned long long /*flags*/) {
  const std::lock_guard lock{machine().mutex};
  const int card = properties->location.id;
  if (card < 0 || card >= machine().settings.cards) {
    return kInvalidDevice;
  }
  const auto got = machine().cards[static_cast<std::size_t>(card)]->memory.create(bytes(size));
  if (!got) {
    return kOutOfMemory;
  }
  *handle = next_physical++;
  physical()[*handle] = {card, *got, bytes(size)};
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemRelease(std::uint64_t handle) {
  const std::lock_guard lock{machine().mutex};
  const auto found = physical().find(handle);
  if (found == physical().end()) {
    return kInvalidValue;
  }
  machine().cards[static_cast<std::size_t>(found->second.card)]->memory.destroy(found->second.id);
  physical().erase(found);
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemMap(std::uint64_t address, std::size_t /*size*/, std::size_t /*offset*/,
                             std::uint64_t handle, unsigned long long /*flags*/) {
  const std::lock_guard lock{machine().mutex};
  const auto found = physical().find(handle);
  if (found == physical().end()) {
    return kInvalidValue;
  }
  card_at(address).memory.map(Address{address}, found->second.id);
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemSetAccess(std::uint64_t /*address*/, std::size_t /*size*/,
                                   const void* /*access*/, std::size_t /*count*/) {
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemUnmap(std::uint64_t address, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  card_at(address).memory.unmap(Address{address}, bytes(size));
  madvise(reinterpret_cast<void*>(address), size, MADV_DONTNEED);
  return kSuccess;
}
PEAKCAST_EXPORT int cuMemsetD32Async(std::uint64_t address, unsigned value, std::size_t count,
                                     StreamHandle /*stream*/) {
  const std::lock_guard lock{machine().mutex};
  values_set(reinterpret_cast<void*>(address), static_cast<int>(value & 0xffU),
             count * sizeof value);
  return kSuccess;
}

// Modules, as torch.compile's kernels and jiterator come: a name, no code.
PEAKCAST_EXPORT int cuModuleLoad(void** module, const char* /*path*/) {
  Stub::fill_handle(module);
  return kSuccess;
}
PEAKCAST_EXPORT int cuModuleLoadData(void** module, const void* /*image*/) {
  Stub::fill_handle(module);
  return kSuccess;
}
PEAKCAST_EXPORT int cuModuleLoadDataEx(void** module, const void* /*image*/, unsigned /*count*/,
                                       int* /*options*/, void** /*values*/) {
  Stub::fill_handle(module);
  return kSuccess;
}
PEAKCAST_EXPORT int cuModuleUnload(void* /*module*/) { return kSuccess; }
PEAKCAST_EXPORT int cuModuleGetFunction(void** function, void* /*module*/, const char* name) {
  auto* const made = new Function{};  // lives as long as the process, as do names of kernels
  std::snprintf(made->name, sizeof made->name, "%s", name);
  *function = made;
  return kSuccess;
}
PEAKCAST_EXPORT int cuFuncGetAttribute(int* value, int attribute, void* /*function*/) {
  constexpr int kMaxThreads = 0;
  constexpr int kRegisters = 4;
  *value = attribute == kMaxThreads ? 1024 : attribute == kRegisters ? 32 : 0;
  return kSuccess;
}
PEAKCAST_EXPORT int cuFuncSetAttribute(void* /*function*/, int /*attribute*/, int /*value*/) {
  return kSuccess;
}
PEAKCAST_EXPORT int cuFuncSetCacheConfig(void* /*function*/, int /*config*/) { return kSuccess; }
PEAKCAST_EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* /*function*/,
                                                                int threads,
                                                                std::size_t /*shared*/) {
  *blocks = threads > 0 ? 2048 / threads : 0;
  return kSuccess;
}
PEAKCAST_EXPORT int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz,
                                   unsigned bx, unsigned by, unsigned bz, unsigned /*shared*/,
                                   StreamHandle stream, void** arguments, void** /*extra*/) {
  return launch_kernel(static_cast<Function*>(function)->name, {gx, gy, gz}, {bx, by, bz},
                       arguments, stream);
}
PEAKCAST_EXPORT int cuLaunchCooperativeKernel(void* function, unsigned gx, unsigned gy, unsigned gz,
                                              unsigned bx, unsigned by, unsigned bz,
                                              unsigned /*shared*/, StreamHandle stream,
                                              void** arguments) {
  return launch_kernel(static_cast<Function*>(function)->name, {gx, gy, gz}, {bx, by, bz},
                       arguments, stream);
}
PEAKCAST_EXPORT int cuLaunchKernelEx(const DriverLaunchConfig* config, void* function,
                                     void** arguments, void** /*extra*/) {
  return launch_kernel(static_cast<Function*>(function)->name, config->grid, config->block,
                       arguments, config->stream);
}

// Looking functions up.
namespace {

int find_function(const char* name, void** function) {
  // A plain name stands for its newest version.
  for (const char* suffix : {"", "_v2", "_v3"}) {
    const std::string full = std::string{name} + suffix;
    *function = dlsym(RTLD_DEFAULT, full.c_str());
    if (*function != nullptr) {
      return kSuccess;
    }
  }
  return kNotFound;
}

}  // namespace

PEAKCAST_EXPORT int cuGetProcAddress_v2(const char* name, void** function, int /*version*/,
                                        std::uint64_t /*flags*/, int* status) {
  const int error = find_function(name, function);
  if (status != nullptr) {
    *status = error == kSuccess ? 0 : 1;
  }
  return error;
}
PEAKCAST_EXPORT int cuGetProcAddress(const char* name, void** function, int /*version*/,
                                     std::uint64_t /*flags*/) {
  return find_function(name, function);
}
/// The answer's status: 0 found, 1 no such function.
PEAKCAST_EXPORT int cudaGetDriverEntryPointByVersion(const char* name, void** function,
                                                     unsigned /*version*/,
                                                     unsigned long long /*flags*/, int* status) {
  const int error = find_function(name, function);
  if (status != nullptr) {
    *status = error == kSuccess ? 0 : 1;
  }
  return kSuccess;
}
PEAKCAST_EXPORT int cudaGetDriverEntryPoint(const char* name, void** function,
                                            unsigned long long flags, int* status) {
  return cudaGetDriverEntryPointByVersion(name, function, 0, flags, status);
}
