#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Where the driver puts what it gives. Ties of a best-fit policy break by address, so this can
/// decide which of two equal blocks is used.
class AddressSource {
 public:
  virtual ~AddressSource() = default;
  /// The address of the next cudaMalloc of `size`; nullopt: the driver refuses (a recording shows
  /// that the card was full).
  [[nodiscard]] virtual std::optional<Address> acquire(Bytes size) = 0;
  virtual void release(Address address, Bytes size) = 0;
  [[nodiscard]] virtual Address reserve(Bytes size) = 0;
  virtual void unreserve(Address address, Bytes size) = 0;
  /// Whether the driver gives the next physical allocation (see acquire()).
  [[nodiscard]] virtual bool create() { return true; }
  virtual void map(Address /*address*/, Bytes /*size*/) {}
  virtual void unmap(Address /*address*/, Bytes /*size*/) {}
};

/// Addresses as the recordings show them on Linux with driver 580 (H100, 2026-11):
///
/// - cudaMalloc carves allocations from chunks of address space. A chunk is a multiple of 32 MiB;
///   a request looks through the chunks from the newest to the oldest and takes the smallest hole
///   that is big enough (the lowest of equals) in the first chunk that has one; else it opens a
///   chunk of its own size rounded up to 32 MiB.
/// - A new chunk goes to the top of the highest gap that is at least 32 MiB larger than it: the
///   kernel's top-down mmap of a range that is then trimmed to its alignment. A chunk that is empty
///   again gives its address space back.
/// - The context leaves two chunks with room: an older, higher one with 24 MiB from its first 8 MiB
///   on, and a newer one with its last 2 MiB.
/// - Requests of at most 1 MiB share pages of 2 MiB, which they do not straddle.
/// - cuMemAddressReserve ascends from its own base in steps of 32 MiB.
///
/// With these rules all 30 recorded random sequences replay with every figure equal. What it cannot
/// know: the gaps that the process's host memory leaves, above all the host copies of a model's
/// tensors, which `.to("cuda")` frees one by one; chunks go there too, and a tie may then break
/// otherwise.
/// acquire: O(chunks); release: O(log).
class ModelledAddresses final : public AddressSource {
 public:
  ModelledAddresses();
  /// Chunks go below `top`, reservations from `first_reservation` on.
  ModelledAddresses(Address top, Address first_reservation);
  /// Whether acquire() gave `address` and it was not released since.
  [[nodiscard]] bool gave(Address address) const;
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address, Bytes size) override;
  [[nodiscard]] Address reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;

 private:
  struct Chunk {
    std::uint64_t base{};
    std::uint64_t size{};
    std::map<std::uint64_t, std::uint64_t> holes{};  // start -> size
    std::uint64_t largest_hole_bound{};              // no hole is larger than this
  };
  [[nodiscard]] std::uint64_t take(std::uint64_t need);
  void put(std::uint64_t start, std::uint64_t size);

  std::uint64_t top_;
  std::uint64_t packed_from_;                       // from here to the top there is no gap
  std::vector<Chunk> chunks_{};                     // oldest first
  std::map<std::uint64_t, std::uint64_t> taken_{};  // chunks in address order: base -> size
  /// Pages that small requests share: base -> holes (start -> size).
  std::map<std::uint64_t, std::map<std::uint64_t, std::uint64_t>> small_pages_{};
  std::uint64_t next_reservation_;
};

/// The addresses of a recording, in its order. As soon as the policy asks for something that the
/// recording did not do, it says so and goes on with modelled addresses that collide with none of
/// the recorded ones.
class RecordedAddresses final : public AddressSource {
 public:
  /// `recording` outlives this.
  explicit RecordedAddresses(const Recording& recording);

  /// The op that is replayed now came from `Recording::events[event]`: driver calls made from here
  /// on were recorded before that entry.
  void begin_op(std::size_t event);

  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address, Bytes size) override;
  [[nodiscard]] Address reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;
  [[nodiscard]] bool create() override;
  void map(Address address, Bytes size) override;
  void unmap(Address address, Bytes size) override;

  /// Index into Recording::events where the policy first parted from the recording.
  [[nodiscard]] std::optional<std::size_t> parted_at() const { return parted_at_; }
  /// Events whose request the recorded card refused although nothing in the trace explains it:
  /// the card was full, with this process's memory or another's.
  [[nodiscard]] const std::vector<std::size_t>& refusals() const { return refusals_; }

 private:
  /// The next recorded driver call of the op, or null.
  [[nodiscard]] const AllocatorEvent* next() const;
  void part();
  [[nodiscard]] bool refuse();
  void advance();
  void consume(Action action, Address address, Bytes size);

  const Recording& recording_;
  std::vector<std::size_t> calls_{};  // segment_* entries, as indices into events
  std::size_t cursor_{};              // into calls_
  std::size_t op_event_{};
  Bytes done_{};  // of the segment_map or segment_unmap at the cursor
  std::optional<std::size_t> parted_at_{};
  std::vector<std::size_t> refusals_{};
  ModelledAddresses modelled_{};
};

}  // namespace peakcast
