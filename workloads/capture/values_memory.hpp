#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace peakcast::capture {

/// Which bytes of the emulated cards are what a real card would have there. No kernel runs, so
/// bytes are known where the host copied or set them, where they were copied on from there, and
/// where hooks computed them; the bytes themselves lie in the emulated memory, which the host can
/// read. Intervals of addresses, half-open. O(log n).
class KnownMemory {
 public:
  void learn(std::uint64_t start, std::uint64_t size);
  void forget(std::uint64_t start, std::uint64_t size);
  [[nodiscard]] bool knows(std::uint64_t start, std::uint64_t size) const;
  /// Bytes that are known.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_{};  ///< start -> end; apart and not adjacent
  std::uint64_t bytes_{};
};

}  // namespace peakcast::capture
