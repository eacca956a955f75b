#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "sim/device/address_source.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

/// The addresses that a device gave, call by call; refused calls leave nothing.
struct GivenAddresses {
  std::vector<Address> acquired{};
  std::vector<Address> reserved{};
};

/// A Device around a Device that remembers where memory was placed. Borrows `inner`.
class AddressLog final : public Device {
 public:
  /// `spec` is what policies are told: a smaller card than `inner`, when part of it is taken away.
  AddressLog(Device& inner, DeviceSpec spec) : inner_{&inner}, spec_{std::move(spec)} {}

  [[nodiscard]] const GivenAddresses& given() const { return given_; }

  [[nodiscard]] const DeviceSpec& spec() const override { return spec_; }
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address) override { inner_->release(address); }
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override { inner_->unreserve(address, size); }
  [[nodiscard]] std::optional<PhysicalId> create(Bytes size) override {
    return inner_->create(size);
  }
  void destroy(PhysicalId physical) override { inner_->destroy(physical); }
  void map(Address address, PhysicalId physical) override { inner_->map(address, physical); }
  void map_run(Address address, std::span<const PhysicalId> physical) override {
    inner_->map_run(address, physical);
  }
  void unmap(Address address, Bytes size) override { inner_->unmap(address, size); }
  [[nodiscard]] std::optional<Address> pool_allocate(Bytes size, StreamId stream) override {
    return inner_->pool_allocate(size, stream);
  }
  void pool_free(Address address, StreamId stream) override { inner_->pool_free(address, stream); }
  void pool_trim(Bytes keep) override { inner_->pool_trim(keep); }
  [[nodiscard]] Bytes pool_reserved() const override { return inner_->pool_reserved(); }
  [[nodiscard]] Bytes free_memory() const override { return inner_->free_memory(); }
  [[nodiscard]] SimDuration host_time() const override { return inner_->host_time(); }
  [[nodiscard]] const DeviceCounts& counts() const override { return inner_->counts(); }

 private:
  Device* inner_;
  DeviceSpec spec_;
  GivenAddresses given_{};
};

/// Places a simulation where a driver placed the same calls. A call beyond the log gets a modelled
/// address below all that were logged. Borrows `given`, which outlives it.
class ObservedAddresses final : public AddressSource {
 public:
  explicit ObservedAddresses(const GivenAddresses& given);

  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address, Bytes size) override;
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;

 private:
  const GivenAddresses* given_;
  std::size_t acquires_{};
  std::size_t reserves_{};
  ModelledAddresses beyond_;
};

}  // namespace peakcast
