#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <span>

namespace peakcast::support {

/// Draws that are the same everywhere: splitmix64 (Steele, Lea and Flood 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_{seed} {}
  [[nodiscard]] std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  /// In [0, bound), bound > 0; the bias for bounds far below 2^64 does not matter to a test.
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) { return bits() % bound; }
  [[nodiscard]] bool one_in(std::uint64_t n) { return below(n) == 0; }
  template <class T>
  [[nodiscard]] T one_of(std::initializer_list<T> values) {
    return *std::next(values.begin(), static_cast<std::ptrdiff_t>(below(values.size())));
  }
  /// A size of about `low` to `high` bits: every order of magnitude is as likely.
  [[nodiscard]] std::int64_t size_of_bits(std::uint64_t low, std::uint64_t high) {
    const std::uint64_t top = std::uint64_t{1} << (low + below(high - low + 1));
    return static_cast<std::int64_t>(top + below(top));
  }

 private:
  std::uint64_t state_;
};

/// PEAKCAST_TEST_SEED, for one random test to be run again as it failed.
[[nodiscard]] inline std::optional<std::uint64_t> given_seed() {
  const char* text =
      std::getenv("PEAKCAST_TEST_SEED");  // NOLINT(concurrency-mt-unsafe): one thread
  if (text == nullptr || *text == '\0') {
    return std::nullopt;
  }
  return std::strtoull(text, nullptr, 0);
}

}  // namespace peakcast::support
