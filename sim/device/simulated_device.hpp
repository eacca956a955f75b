#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "sim/core/slots.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/device.hpp"
#include "sim/device/driver_costs.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {

/// The stream-ordered pool, behind Device::pool_*.
class StreamOrderedPool;

/// How a SimulatedDevice is set up.
struct SimulatedDeviceOptions {
  DeviceSpec spec{};
  /// What lies outside every allocator: context, libraries, NCCL. Taken from spec.total at once.
  Bytes outside{};
  /// What the driver gives to nobody although it counts as free. A real card keeps its last whole
  /// page: filled page by page it is left with 2 MiB and the odd bytes (H100, driver 580.159.04:
  /// `fill` of the driver costs program; cuMemCreate alike).
  Bytes kept{};
  /// Requests of cudaMalloc up to this share pages.
  Bytes shared_page_limit{1 << 20};
  /// Null: those of reference_gpu(). Borrowed.
  const DriverCosts* costs{};
  /// Null: ModelledAddresses. Borrowed.
  AddressSource* addresses{};
  /// What cudaFree waits for, and what tells the pool which frees the card has passed; null:
  /// nothing, and all. Borrowed.
  Streams* streams{};
};

/// A card that exists only as books: capacity, pages, addresses, and what each call costs.
/// cudaMalloc takes whole 2 MiB pages of the card; requests of at most 1 MiB share them (measured:
/// the driver costs program of the recordings). It fails when the pages are used up.
class SimulatedDevice final : public Device {
 public:
  explicit SimulatedDevice(SimulatedDeviceOptions options);
  ~SimulatedDevice() override;
  SimulatedDevice(const SimulatedDevice&) = delete;
  SimulatedDevice& operator=(const SimulatedDevice&) = delete;

  [[nodiscard]] const DeviceSpec& spec() const override { return options_.spec; }
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address) override;
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;
  [[nodiscard]] std::optional<PhysicalId> create(Bytes size) override;
  void destroy(PhysicalId physical) override;
  void map(Address address, PhysicalId physical) override;
  void map_run(Address address, std::span<const PhysicalId> physical) override;
  void unmap(Address address, Bytes size) override;
  [[nodiscard]] std::optional<Address> pool_allocate(Bytes size, StreamId stream) override;
  void pool_free(Address address, StreamId stream) override;
  void pool_trim(Bytes keep) override;
  [[nodiscard]] Bytes pool_reserved() const override;
  [[nodiscard]] bool resume_acquired(Address address, Bytes size) override;
  [[nodiscard]] bool resume_reserved(Address address, Bytes size) override;
  [[nodiscard]] std::optional<PhysicalId> resume_mapped(Address address, Bytes size) override;
  // These cost no capacity: it is counted in `outside`.
  void host_allocate(std::uint32_t buffer, Bytes size) override {
    addresses_->host_allocate(buffer, size);
  }
  void host_free(std::uint32_t buffer) override { addresses_->host_free(buffer); }
  void synchronized() override;
  void driver_memory(Bytes size) override { addresses_->driver_memory(size); }
  void local_memory(Bytes per_thread) override { addresses_->local_memory(per_thread); }
  [[nodiscard]] Bytes free_memory() const override { return options_.spec.total - used_; }
  [[nodiscard]] SimDuration host_time() const override { return host_time_; }
  [[nodiscard]] const DeviceCounts& counts() const override { return counts_; }

  /// The most that was ever in use on the card, `outside` included.
  [[nodiscard]] Bytes peak_used() const { return peak_used_; }

  /// For the pool: takes or gives back whole pages without a call of the program.
  [[nodiscard]] bool take(Bytes size);
  void give(Bytes size);
  void spend(SimDuration time) { host_time_ += time; }

 private:
  [[nodiscard]] PhysicalId new_physical(Bytes size);
  /// map() without cuMemSetAccess; the mapping's size.
  Bytes map_only(Address address, PhysicalId physical);

  struct Physical {
    Bytes size{};
    std::int32_t mappings{};
    bool destroyed{};
  };
  /// A 2 MiB page that requests of at most 1 MiB share.
  struct SmallPage {
    std::int32_t users{};
  };

  SimulatedDeviceOptions options_;
  ModelledAddresses modelled_{};
  AddressSource* addresses_;
  std::unordered_map<std::uint64_t, Bytes> acquired_{};         // by address; never iterated
  std::unordered_map<std::uint64_t, SmallPage> small_pages_{};  // by page address; never iterated
  Slots<Physical> physical_{};
  std::map<std::uint64_t, std::uint32_t> mapped_{};  // address -> physical
  std::unique_ptr<StreamOrderedPool> pool_{};
  Bytes used_{};
  Bytes peak_used_{};
  SimDuration host_time_{};
  DeviceCounts counts_{};
};

}  // namespace peakcast
