#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

class SimulatedDevice;

/// The driver's stream-ordered pool (cudaMallocAsync) with an unlimited release threshold, as
/// PyTorch's backend sets it. It hands out in steps of 512 bytes and keeps what it has until it is
/// trimmed. What was read off an H100 (driver 580.159.04; `pool_growth` of the driver costs
/// program, and the requests of the recording bert_large_varlen_default given to cuMemAllocAsync
/// with and without waiting after each call, 2026-11-24):
///
/// - The smallest hole that holds a request is taken, ties to the lowest address. Memory that was
///   freed since the device was last waited for goes first; memory that was never used goes last.
/// - It grows by whole chunks of 32 MiB, by what the never-used end lacks. A hole at that end joins
///   it once its frees are known to have completed.
/// - Before it takes chunks from the card, it moves those that lie free, wholly and completed, to
///   the end of its address space (physical memory is mapped anew, no data moves).
///
/// With a wait after every call the model's reserved memory is the card's for the first 8128 calls
/// and within 0.5 % ever after; without, within 2 % on the way and 1 % at the end: which of its
/// pending frees the driver joins is not understood. Streams are not told apart: PyTorch's backend
/// turns the driver's three reuse rules on, which let one stream use what another freed in order.
/// allocate: O(holes); free: O(log).
class StreamOrderedPool {
 public:
  explicit StreamOrderedPool(SimulatedDevice& device) : device_{device} {}
  [[nodiscard]] std::optional<Address> allocate(Bytes size, StreamId stream);
  void free(Address address, StreamId stream);
  /// The device was waited for: every free so far has completed. Returns what is free beyond
  /// `keep`, in whole chunks, the highest first.
  void trim(Bytes keep);
  [[nodiscard]] Bytes reserved() const { return reserved_; }

 private:
  static constexpr std::uint64_t kBase = 0x1302000000;
  struct Hole {
    std::uint64_t size{};
    bool pending{};  ///< freed since the device was last waited for
  };
  using Holes = std::map<std::uint64_t, Hole>;
  [[nodiscard]] Holes::iterator find_hole(std::uint64_t need);
  [[nodiscard]] bool grow(std::uint64_t need);
  void add_hole(std::uint64_t start, std::uint64_t size, bool pending);
  /// Cuts [start, start + kChunk) out of the hole that holds it.
  void cut_chunk(std::uint64_t start);
  /// Chunks that lie free and completed, ascending.
  [[nodiscard]] std::vector<std::uint64_t> free_chunks() const;

  SimulatedDevice& device_;
  Holes holes_{};                                  // start -> hole
  std::map<std::uint64_t, std::uint64_t> live_{};  // start -> size
  std::uint64_t unused_{kBase};                    // [unused_, end_) was never handed out
  std::uint64_t end_{kBase};
  Bytes reserved_{};
};

}  // namespace peakcast
