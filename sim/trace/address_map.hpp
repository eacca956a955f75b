#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "sim/core/check.hpp"

namespace peakcast {

/// Live addresses to small numbers: open addressing, linear probing, removal by shifting back, so
/// that no tombstones pile up over 10^8 allocations. Keys are not 0 (find and take give nothing for
/// it). All calls O(1) expected; the order of nothing depends on the hash. Addresses are multiples
/// of 512 as a rule, hence the multiplication, whose high bits depend on all bits of the key.
class AddressMap {
 public:
  AddressMap() : slots_(kFirstCapacity) {}

  /// False when `key` is there already (nothing changes).
  bool insert(std::uint64_t key, std::uint32_t value) {
    check(key != 0, "0 is no key");
    if ((size_ + 1) * 2 > slots_.size()) {
      grow();
    }
    std::size_t at = home(key);
    while (slots_[at].key != 0) {
      if (slots_[at].key == key) {
        return false;
      }
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = {key, value};
    ++size_;
    return true;
  }

  [[nodiscard]] std::optional<std::uint32_t> find(std::uint64_t key) const {
    for (std::size_t at = home(key); slots_[at].key != 0; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) {
        return slots_[at].value;
      }
    }
    return std::nullopt;
  }

  /// Removes `key` and returns its value; empty when it was not there.
  std::optional<std::uint32_t> take(std::uint64_t key) {
    if (key == 0) {
      return std::nullopt;
    }
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = home(key);
    while (slots_[at].key != key) {
      if (slots_[at].key == 0) {
        return std::nullopt;
      }
      at = (at + 1) & mask;
    }
    const std::uint32_t value = slots_[at].value;
    // Entries behind the hole move up unless they would come to stand before their home.
    std::size_t hole = at;
    for (std::size_t next = (hole + 1) & mask; slots_[next].key != 0; next = (next + 1) & mask) {
      const std::size_t from_home = (next - home(slots_[next].key)) & mask;
      if (from_home >= ((next - hole) & mask)) {
        slots_[hole] = slots_[next];
        hole = next;
      }
    }
    slots_[hole] = {};
    --size_;
    return value;
  }

  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct Slot {
    std::uint64_t key{};
    std::uint32_t value{};
  };
  static constexpr std::size_t kFirstCapacity = 1024;

  [[nodiscard]] std::size_t home(std::uint64_t key) const {
    // 2^64 / golden ratio (Knuth, The Art of Computer Programming 3, section 6.4).
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15ULL) >> shift_);
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    --shift_;
    size_ = 0;
    for (const Slot& slot : old) {
      if (slot.key != 0) {
        insert(slot.key, slot.value);
      }
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_{};
  unsigned shift_{64 - 10};  // log2 of the capacity
};

}  // namespace peakcast
