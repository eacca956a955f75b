#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/core/allocator_event.hpp"
#include "sim/device/address_source.hpp"

namespace peakcast::support {

/// Device addresses that can be read: the first cudaMalloc gets S0, the next S1, and so on upward,
/// each with room of its own; the first reservation R0, the next R1. Nothing is used twice.
class NamedAddresses final : public AddressSource {
 public:
  /// `device` (0 to 2) moves all of them: a second device beside the first begins at S256.
  explicit NamedAddresses(std::uint64_t device = 0) : device_{device} {}
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address, Bytes size) override;
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;

  /// "S2", "S2+40M", "R0+512".
  [[nodiscard]] static std::string name(Address address);

 private:
  std::uint64_t device_;
  std::uint64_t acquired_{};
  std::uint64_t reserved_{};
};

/// "20M", "10.5M", "1049088": MiB in halves where that is exact, else bytes.
[[nodiscard]] std::string short_size(Bytes size);

/// The heap as the specification draws it, one segment a line, ascending:
///   S0: [512 A 1][1M A][1047040 -][2M P]
/// A: allocated, then the request where it is not the size; P: pending; -: free.
[[nodiscard]] std::string heap_text(const HeapView& heap);

/// "segment_alloc S0 20M", "oom 6M (0 free)".
[[nodiscard]] std::string event_text(const AllocatorEvent& event);

/// Keeps what an allocator says.
class EventLog final : public EventSink {
 public:
  void on_event(const AllocatorEvent& event) override { events_.push_back(event); }
  [[nodiscard]] const std::vector<AllocatorEvent>& events() const { return events_; }
  void clear() { events_.clear(); }
  /// Joined with "; ", then forgotten.
  [[nodiscard]] std::string take_text();

 private:
  std::vector<AllocatorEvent> events_{};
};

}  // namespace peakcast::support
