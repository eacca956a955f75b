#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sim/device/device.hpp"

namespace peakcast::testing {

/// A Device around a Device that remembers what is mapped where, so that a test can ask which
/// physical memory lies behind an address: two addresses may be one memory.
class PhysicalMemory final : public Device {
 public:
  /// [begin, begin + size) of one physical allocation.
  struct Piece {
    PhysicalId physical{};
    Bytes begin{};
    Bytes size{};
  };
  explicit PhysicalMemory(Device& device) : device_{device} {}

  /// The memory behind [address, address + size); nullopt: some of it is not mapped.
  [[nodiscard]] std::optional<std::vector<Piece>> behind(Address address, Bytes size) const {
    std::vector<Piece> pieces;
    while (size > Bytes{}) {
      auto mapping = mapped_.upper_bound(address);
      if (mapping == mapped_.begin()) {
        return std::nullopt;
      }
      --mapping;
      const Bytes skipped = address - mapping->first;
      const Bytes whole = sizes_.at(mapping->second.value);
      if (skipped >= whole) {
        return std::nullopt;
      }
      const Bytes here = std::min(size, whole - skipped);
      pieces.push_back({mapping->second, skipped, here});
      address = address + here;
      size -= here;
    }
    return pieces;
  }
  [[nodiscard]] std::size_t mappings() const { return mapped_.size(); }

  [[nodiscard]] const DeviceSpec& spec() const override { return device_.spec(); }
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override {
    return device_.acquire(size);
  }
  void release(Address address) override { device_.release(address); }
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override {
    return device_.reserve(size);
  }
  void unreserve(Address address, Bytes size) override { device_.unreserve(address, size); }
  [[nodiscard]] std::optional<PhysicalId> create(Bytes size) override {
    const std::optional<PhysicalId> physical = device_.create(size);
    if (physical) {
      sizes_[physical->value] = size;
    }
    return physical;
  }
  void destroy(PhysicalId physical) override { device_.destroy(physical); }
  void map(Address address, PhysicalId physical) override {
    device_.map(address, physical);
    mapped_[address] = physical;
  }
  void map_run(Address address, std::span<const PhysicalId> physical) override {
    device_.map_run(address, physical);
    for (const PhysicalId part : physical) {
      mapped_[address] = part;
      address = address + sizes_.at(part.value);
    }
  }
  void unmap(Address address, Bytes size) override {
    device_.unmap(address, size);
    mapped_.erase(mapped_.lower_bound(address), mapped_.lower_bound(address + size));
  }
  [[nodiscard]] std::optional<Address> pool_allocate(Bytes size, StreamId stream) override {
    return device_.pool_allocate(size, stream);
  }
  void pool_free(Address address, StreamId stream) override { device_.pool_free(address, stream); }
  void pool_trim(Bytes keep) override { device_.pool_trim(keep); }
  [[nodiscard]] Bytes pool_reserved() const override { return device_.pool_reserved(); }
  [[nodiscard]] Bytes free_memory() const override { return device_.free_memory(); }
  [[nodiscard]] SimDuration host_time() const override { return device_.host_time(); }
  [[nodiscard]] const DeviceCounts& counts() const override { return device_.counts(); }

 private:
  Device& device_;
  std::map<Address, PhysicalId> mapped_{};
  std::map<std::uint32_t, Bytes> sizes_{};
};

/// Blocks by the physical memory behind them: no byte of it may belong to two.
class PhysicalBlocks {
 public:
  explicit PhysicalBlocks(const PhysicalMemory& memory) : memory_{memory} {}

  /// What is wrong with `block` at [address, address + size), or "".
  [[nodiscard]] std::string enter(std::uint32_t block, Address address, Bytes size) {
    const auto pieces = memory_.behind(address, size);
    if (!pieces) {
      return "a block lies where nothing is mapped";
    }
    for (const PhysicalMemory::Piece& piece : *pieces) {
      std::map<Bytes, Bytes>& held = held_[piece.physical.value];
      const auto after = held.lower_bound(piece.begin);
      if ((after != held.end() && after->first < piece.begin + piece.size) ||
          (after != held.begin() && std::prev(after)->second > piece.begin)) {
        return "two blocks share memory";
      }
      held.emplace(piece.begin, piece.begin + piece.size);
    }
    blocks_[block] = *pieces;
    return {};
  }
  void leave(std::uint32_t block) {
    for (const PhysicalMemory::Piece& piece : blocks_.at(block)) {
      held_[piece.physical.value].erase(piece.begin);
    }
    blocks_.erase(block);
  }
  /// Whether every block is still mapped to what it had: nothing was unmapped under it.
  [[nodiscard]] const std::map<std::uint32_t, std::vector<PhysicalMemory::Piece>>& blocks() const {
    return blocks_;
  }

 private:
  const PhysicalMemory& memory_;
  std::map<std::uint32_t, std::map<Bytes, Bytes>> held_{};  ///< by physical: begin -> end
  std::map<std::uint32_t, std::vector<PhysicalMemory::Piece>> blocks_{};
};

}  // namespace peakcast::testing
