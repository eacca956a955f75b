#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "sim/core/units.hpp"

namespace peakcast {

/// What an allocator may know of the card.
struct DeviceSpec {
  std::string name{};
  Bytes total{};        ///< totalGlobalMem, what the driver reports as the card's memory
  Bytes granularity{};  ///< of virtual-memory calls, and of the pages behind cudaMalloc
  int compute_major{};  ///< compute capability, e.g. 9 and 0 for an H100
  int compute_minor{};
};

/// How often each driver call was made.
struct DeviceCounts {
  std::int64_t acquire{};
  std::int64_t release{};
  std::int64_t reserve{};
  std::int64_t unreserve{};
  std::int64_t create{};
  std::int64_t destroy{};
  std::int64_t map{};
  std::int64_t unmap{};
  std::int64_t pool_allocate{};
  std::int64_t pool_free{};
};

/// A physical allocation of the virtual-memory interface (CUmemGenericAllocationHandle).
using PhysicalId = Id<struct PhysicalTag>;

/// The driver as allocators see it. SimulatedDevice models its decisions and costs; cuda_check's
/// CudaDevice calls the real one. A full device is an outcome (nullopt), not an error.
class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual const DeviceSpec& spec() const = 0;

  /// cudaMalloc. size > 0.
  [[nodiscard]] virtual std::optional<Address> acquire(Bytes size) = 0;
  /// cudaFree of what acquire() returned, once. Waits for the device, as the real call does.
  virtual void release(Address address) = 0;

  /// cuMemAddressReserve: address space, no memory. size is a multiple of the granularity.
  [[nodiscard]] virtual std::optional<Address> reserve(Bytes size) = 0;
  /// cuMemAddressFree of a whole reservation; nothing in it is mapped.
  virtual void unreserve(Address address, Bytes size) = 0;
  /// cuMemCreate: physical memory. size is a multiple of the granularity.
  [[nodiscard]] virtual std::optional<PhysicalId> create(Bytes size) = 0;
  /// cuMemRelease: the memory goes back once it is mapped nowhere.
  virtual void destroy(PhysicalId physical) = 0;
  /// cuMemMap and cuMemSetAccess of a whole physical allocation at `address` in a reservation.
  /// One physical allocation may be mapped at several addresses (memory stitching).
  virtual void map(Address address, PhysicalId physical) = 0;
  /// The same for several, one behind the other from `address` on, with one cuMemSetAccess over all
  /// of them: each further one costs that call about half of what a call of its own does.
  virtual void map_run(Address address, std::span<const PhysicalId> physical) = 0;
  /// cuMemUnmap of [address, address + size): whole mappings only. Waits for the device's work, as
  /// release() does.
  virtual void unmap(Address address, Bytes size) = 0;

  /// cudaMallocAsync / cudaFreeAsync on the device's default pool.
  [[nodiscard]] virtual std::optional<Address> pool_allocate(Bytes size, StreamId stream) = 0;
  virtual void pool_free(Address address, StreamId stream) = 0;
  /// cudaMemPoolTrimTo: gives back what is unused beyond `keep`.
  virtual void pool_trim(Bytes keep) = 0;
  /// What the pool holds from the device (cudaMemPoolAttrReservedMemCurrent).
  [[nodiscard]] virtual Bytes pool_reserved() const = 0;

  // A run that starts in the middle (a recording that began late): what the card holds already. No
  // call of the driver, so at no cost; only a simulated card can. Before any other call.

  /// As if acquire() had given [address, address + size).
  [[nodiscard]] virtual bool resume_acquired(Address /*address*/, Bytes /*size*/) { return false; }
  /// As if reserve() had.
  [[nodiscard]] virtual bool resume_reserved(Address /*address*/, Bytes /*size*/) { return false; }
  /// As if physical memory had been made and mapped there.
  [[nodiscard]] virtual std::optional<PhysicalId> resume_mapped(Address /*address*/,
                                                                Bytes /*size*/) {
    return std::nullopt;
  }

  // What else in the process moves what acquire() and pool_allocate() return. A real driver sees it
  // by itself.

  /// malloc of host buffer `buffer`, and its free.
  virtual void host_allocate(std::uint32_t /*buffer*/, Bytes /*size*/) {}
  virtual void host_free(std::uint32_t /*buffer*/) {}
  /// The driver or a library takes `size` of the device for itself and keeps it.
  virtual void driver_memory(Bytes /*size*/) {}
  /// The host has waited for the card, a stream or an event: the driver learns what has ended.
  virtual void synchronized() {}
  /// A kernel runs whose threads need `per_thread` of local memory each.
  virtual void local_memory(Bytes /*per_thread*/) {}

  /// cudaMemGetInfo's free bytes.
  [[nodiscard]] virtual Bytes free_memory() const = 0;
  /// Host time spent in driver calls so far (simulated: from the measured table).
  [[nodiscard]] virtual SimDuration host_time() const = 0;
  [[nodiscard]] virtual const DeviceCounts& counts() const = 0;
};

}  // namespace peakcast
