#pragma once

#include <cstdint>
#include <optional>

#include "sim/core/units.hpp"

namespace peakcast {

/// A range of device memory and the key that its contents are derived from.
struct TouchedBlock {
  Address address{};
  Bytes size{};
  std::uint64_t key{};  ///< unlike for every block that was ever handed out
};

/// The first thing that was found wrong in a block's contents.
struct Corruption {
  std::uint64_t key{};     ///< of the block that was read
  std::uint64_t offset{};  ///< bytes from the block's start, rounded down to a word
  std::uint64_t expected{};
  std::uint64_t found{};
};

struct TouchReport {
  std::int64_t filled_bytes{};
  std::int64_t verified_bytes{};
  std::int64_t bad_words{};           ///< 8-byte words whose contents were not the block's own
  std::optional<Corruption> first{};  ///< some first: the device's threads race to report it
};

/// Work on a device that uses blocks as a program's kernels do. Everything is asynchronous and in
/// stream order; what goes wrong is collected until finish().
class Toucher {
 public:
  virtual ~Toucher() = default;
  /// `stream` writes the block's pattern over all of it.
  virtual void fill(const TouchedBlock& block, StreamId stream) = 0;
  /// `stream` reads all of it and compares.
  virtual void verify(const TouchedBlock& block, StreamId stream) = 0;
  /// `user` waits until what `owner` was given so far has ended, is busy for a while, and only then
  /// verifies: a slow consumer on another stream.
  virtual void verify_late(const TouchedBlock& block, StreamId owner, StreamId user) = 0;
  /// As verify(), after `stream` was busy for a while.
  virtual void verify_after_pause(const TouchedBlock& block, StreamId stream) = 0;
  /// Waits for all of it.
  [[nodiscard]] virtual TouchReport finish() = 0;
};

/// The word at byte `offset` (a multiple of 8) of a block's pattern. Adjacent words differ and so
/// do the same words of two blocks; kernels and host doubles share this one definition.
[[nodiscard]] constexpr std::uint64_t pattern_word(std::uint64_t key, std::uint64_t offset) {
  // An odd multiplier makes key -> key * m a bijection of 64-bit words (2^64 / golden ratio).
  return key * 0x9E3779B97F4A7C15ULL + offset;
}

}  // namespace peakcast
