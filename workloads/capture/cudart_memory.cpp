// Memory of the card and of the host, and copies between them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <sys/mman.h>

#include "sim/engine/cost_model.hpp"
#include "workloads/capture/allocator_tap.hpp"
#include "workloads/capture/assume.hpp"
#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/cudart.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

void* pointer(Address address) { return reinterpret_cast<void*>(address.value()); }

void log_driver(RecordKind kind, void* address, std::size_t size, StreamHandle stream, int card) {
  machine().log.write({.address = reinterpret_cast<std::uint64_t>(address),
                       .value = static_cast<std::int64_t>(size),
                       .stream = reinterpret_cast<std::uint64_t>(stream),
                       .kind = kind,
                       .device = static_cast<std::uint8_t>(card)});
}

/// Sizes beyond any card, as a program that reads garbage asks for them.
bool is_absurd(std::size_t size) { return size > (std::size_t{1} << 46); }

int allocate(void** out, std::size_t size, const void* caller) {
  *out = nullptr;
  if (size == 0) {
    return set_error(kSuccess);
  }
  const bool by_pytorch = is_pytorch_allocator(caller);
  if (by_pytorch) {
    tap_allocator();
  }
  const std::lock_guard lock{machine().mutex};
  const std::optional<Address> address =
      is_absurd(size) ? std::nullopt
                      : machine().current().allocate(Bytes{static_cast<std::int64_t>(size)});
  if (!address) {
    return set_error(kOutOfMemory);
  }
  *out = pointer(*address);
  if (!by_pytorch) {
    log_driver(RecordKind::driver_allocate, *out, size, nullptr, current_card());
  }
  return set_error(kSuccess);
}

int release(void* address, const void* caller) {
  if (address == nullptr) {
    return set_error(kSuccess);
  }
  const std::lock_guard lock{machine().mutex};
  const int card = card_of(address);
  if (card < 0) {
    return set_error(kInvalidValue);
  }
  if (!is_pytorch_allocator(caller)) {
    log_driver(RecordKind::driver_free, address, 0, nullptr, card);
  }
  machine().cards[static_cast<std::size_t>(card)]->free(
      Address{reinterpret_cast<std::uint64_t>(address)});
  return set_error(kSuccess);
}

int allocate_pinned(void** out, std::size_t size) {
  *out = nullptr;
  void* const got = mmap(nullptr, std::max<std::size_t>(size, 1), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) {
    return set_error(kOutOfMemory);
  }
  const std::lock_guard lock{machine().mutex};
  machine().pinned[reinterpret_cast<std::uint64_t>(got)] = size;
  *out = got;
  return set_error(kSuccess);
}

bool is_pinned(const void* address) {
  const auto& pinned = machine().pinned;
  const auto value = reinterpret_cast<std::uint64_t>(address);
  auto after = pinned.upper_bound(value);
  return after != pinned.begin() && value < std::prev(after)->first + std::prev(after)->second;
}

/// `wait`: the host goes on when the copy is done.
int copy_locked(void* to, const void* from, std::size_t size, StreamHandle handle, bool wait) {
  if (size == 0) {
    return set_error(kSuccess);
  }
  const std::lock_guard lock{machine().mutex};
  Machine& all = machine();
  Stream* const stream = all.find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  const bool to_card = card_of(to) >= 0;
  const bool from_card = card_of(from) >= 0;
  const Bytes bytes{static_cast<std::int64_t>(size)};
  const std::string kernel = all.last_kernel;
  if (to_card && from_card) {
    all.launch(*stream, handle, "copy on the card", streaming_time(all.settings.gpu, 2 * bytes),
               size, RecordKind::copy);
    all.last_kernel = kernel;
    values_copied_on_card(to, from, size);
  } else if (to_card) {
    all.launch(*stream, handle, "copy to the card",
               host_copy_time(all.settings.gpu, HostCopy::to_device, bytes), size,
               RecordKind::copy);
    values_copied_to_card(to, from, size);
  } else if (from_card) {
    all.launch(*stream, handle, "copy to the host",
               host_copy_time(all.settings.gpu, HostCopy::to_host, bytes), size, RecordKind::copy);
    all.last_kernel = kernel;
    values_copied_to_host(to, from, size, kernel);
    // A copy to pageable memory returns when it is done; pinned memory is waited for by an event.
    wait = wait || !is_pinned(to);
  } else {
    std::memmove(to, from, size);
  }
  if (wait && stream->capturing == nullptr) {
    all.synchronize(*stream, handle);
  }
  return set_error(kSuccess);
}

int copy(void* to, const void* from, std::size_t size, StreamHandle handle, bool wait) {
  if (size <= sizeof(std::int64_t) && card_of(from) >= 0) {
    look_up_site();  // the program may ask for a count or a truth
  }
  const int error = copy_locked(to, from, size, handle, wait);
  settle_assumptions();
  return error;
}

int set(void* to, int byte, std::size_t size, StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Machine& all = machine();
  Stream* const stream = all.find(handle);
  if (stream == nullptr || size == 0) {
    return set_error(stream == nullptr ? kInvalidHandle : kSuccess);
  }
  if (card_of(to) < 0) {
    std::memset(to, byte, size);
    return set_error(kSuccess);
  }
  all.launch(*stream, handle, "fill",
             streaming_time(all.settings.gpu, Bytes{static_cast<std::int64_t>(size)}), size,
             RecordKind::copy);
  values_set(to, byte, size);
  return set_error(kSuccess);
}

}  // namespace
}  // namespace peakcast::capture

using namespace peakcast::capture;
using peakcast::Address;
using peakcast::Bytes;

PEAKCAST_EXPORT int cudaMalloc(void** out, std::size_t size) {
  return allocate(out, size, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaMallocManaged(void** out, std::size_t size, unsigned /*flags*/) {
  return allocate(out, size, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaMallocPitch(void** out, std::size_t* pitch, std::size_t width,
                                    std::size_t height) {
  constexpr std::size_t kPitch = 512;
  *pitch = (width + kPitch - 1) / kPitch * kPitch;
  return allocate(out, *pitch * height, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaFree(void* address) {
  return release(address, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock{machine().mutex};
  *free = static_cast<std::size_t>(machine().current().memory.free_memory().count());
  *total = static_cast<std::size_t>(machine().settings.gpu.spec.total.count());
  return set_error(kSuccess);
}

PEAKCAST_EXPORT int cudaMallocAsync(void** out, std::size_t size, StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  *out = nullptr;
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  if (size == 0) {
    return set_error(kSuccess);
  }
  const auto address = is_absurd(size)
                           ? std::nullopt
                           : machine().cards[static_cast<std::size_t>(stream->card)]->pool_allocate(
                                 Bytes{static_cast<std::int64_t>(size)}, stream->id);
  if (!address) {
    return set_error(kOutOfMemory);
  }
  *out = pointer(*address);
  log_driver(RecordKind::driver_allocate, *out, size, handle, stream->card);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaMallocFromPoolAsync(void** out, std::size_t size, void* /*pool*/,
                                            StreamHandle stream) {
  return cudaMallocAsync(out, size, stream);
}
PEAKCAST_EXPORT int cudaFreeAsync(void* address, StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  const int card = card_of(address);
  if (stream == nullptr || card < 0) {
    return set_error(address == nullptr ? kSuccess : kInvalidValue);
  }
  log_driver(RecordKind::driver_free, address, 0, handle, card);
  machine().cards[static_cast<std::size_t>(card)]->pool_free(
      Address{reinterpret_cast<std::uint64_t>(address)}, stream->id);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceGetDefaultMemPool(void** pool, int card) {
  *pool = reinterpret_cast<void*>(static_cast<std::uintptr_t>(card) + 1);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaDeviceGetMemPool(void** pool, int card) {
  return cudaDeviceGetDefaultMemPool(pool, card);
}
PEAKCAST_EXPORT int cudaMemPoolSetAttribute(void* /*pool*/, int /*attribute*/, void* /*value*/) {
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaMemPoolGetAttribute(void* pool, int attribute, std::uint64_t* value) {
  constexpr int kReservedNow = 5;
  constexpr int kReservedHigh = 6;
  const std::lock_guard lock{machine().mutex};
  const auto card = reinterpret_cast<std::uintptr_t>(pool) - 1;
  *value = 0;
  if (card < machine().cards.size() && (attribute == kReservedNow || attribute == kReservedHigh)) {
    *value = static_cast<std::uint64_t>(machine().cards[card]->memory.pool_reserved().count());
  }
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaMemPoolSetAccess(void* /*pool*/, const void* /*access*/,
                                         std::size_t /*count*/) {
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaMemPoolTrimTo(void* pool, std::size_t keep) {
  const std::lock_guard lock{machine().mutex};
  const auto card = reinterpret_cast<std::uintptr_t>(pool) - 1;
  if (card < machine().cards.size()) {
    machine().cards[card]->memory.pool_trim(Bytes{static_cast<std::int64_t>(keep)});
  }
  return set_error(kSuccess);
}

PEAKCAST_EXPORT int cudaHostAlloc(void** out, std::size_t size, unsigned /*flags*/) {
  return allocate_pinned(out, size);
}
PEAKCAST_EXPORT int cudaMallocHost(void** out, std::size_t size) {
  return allocate_pinned(out, size);
}
PEAKCAST_EXPORT int cudaFreeHost(void* address) {
  const std::lock_guard lock{machine().mutex};
  const auto found = machine().pinned.find(reinterpret_cast<std::uint64_t>(address));
  if (found == machine().pinned.end()) {
    return set_error(address == nullptr ? kSuccess : kInvalidValue);
  }
  munmap(address, std::max<std::size_t>(found->second, 1));
  machine().pinned.erase(found);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaHostRegister(void* address, std::size_t size, unsigned /*flags*/) {
  const std::lock_guard lock{machine().mutex};
  machine().pinned[reinterpret_cast<std::uint64_t>(address)] = size;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaHostUnregister(void* address) {
  const std::lock_guard lock{machine().mutex};
  machine().pinned.erase(reinterpret_cast<std::uint64_t>(address));
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaHostGetDevicePointer(void** card, void* host, unsigned /*flags*/) {
  *card = host;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaPointerGetAttributes(PointerAttributes* out, const void* address) {
  const std::lock_guard lock{machine().mutex};
  const int card = card_of(address);
  void* const where = const_cast<void*>(address);
  if (card >= 0) {
    *out = {.type = 2, .device = card, .device_pointer = where, .host_pointer = nullptr};
  } else if (is_pinned(address)) {
    *out = {.type = 1, .device = current_card(), .device_pointer = where, .host_pointer = where};
  } else {
    *out = {.type = 0, .device = -2, .device_pointer = nullptr, .host_pointer = where};
  }
  return set_error(kSuccess);
}

PEAKCAST_EXPORT int cudaMemcpy(void* to, const void* from, std::size_t size, int /*kind*/) {
  return copy(to, from, size, nullptr, true);
}
PEAKCAST_EXPORT int cudaMemcpyAsync(void* to, const void* from, std::size_t size, int /*kind*/,
                                    StreamHandle stream) {
  return copy(to, from, size, stream, false);
}
PEAKCAST_EXPORT int cudaMemcpyPeerAsync(void* to, int /*to_card*/, const void* from,
                                        int /*from_card*/, std::size_t size, StreamHandle stream) {
  return copy(to, from, size, stream, false);
}
PEAKCAST_EXPORT int cudaMemcpyPeer(void* to, int /*to_card*/, const void* from, int /*from_card*/,
                                   std::size_t size) {
  return copy(to, from, size, nullptr, true);
}
PEAKCAST_EXPORT int cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                                      std::size_t from_pitch, std::size_t width, std::size_t height,
                                      int kind, StreamHandle stream) {
  for (std::size_t row = 0; row < height; ++row) {
    cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                    static_cast<const char*>(from) + row * from_pitch, width, kind, stream);
  }
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from,
                                 std::size_t from_pitch, std::size_t width, std::size_t height,
                                 int kind) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
PEAKCAST_EXPORT int cudaMemset(void* to, int byte, std::size_t size) {
  return set(to, byte, size, nullptr);
}
PEAKCAST_EXPORT int cudaMemsetAsync(void* to, int byte, std::size_t size, StreamHandle stream) {
  return set(to, byte, size, stream);
}
