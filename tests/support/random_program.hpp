#pragma once

#include <cstdint>
#include <cstdlib>
#include <ostream>
#include <string>
#include <vector>

namespace peakcast::testing {

/// One step of a random program; prints as the C++ that makes it, so that a failure can be pasted
/// in as a test of its own.
struct Step {
  enum class Kind : std::uint8_t { allocate, free, record, empty_cache, iteration };
  Kind kind{};
  std::int64_t size{};     ///< allocate: bytes
  std::uint32_t stream{};  ///< allocate, record
  std::uint32_t buffer{};  ///< free, record: the n-th allocate of the program

  friend std::ostream& operator<<(std::ostream& out, const Step& step) {
    constexpr const char* kNames[] = {"allocate", "free", "record", "empty_cache", "iteration"};
    return out << "Step{Step::Kind::" << kNames[static_cast<std::size_t>(step.kind)] << ", "
               << step.size << ", " << step.stream << ", " << step.buffer << "}";
  }
};
using Program = std::vector<Step>;

/// xorshift64*, Vigna 2016: fixed draws on every platform.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_{seed * 0x9e3779b97f4a7c15ULL + 1} {}
  /// 0 <= result < bound.
  std::uint64_t below(std::uint64_t bound) {
    state_ ^= state_ >> 12U;
    state_ ^= state_ << 25U;
    state_ ^= state_ >> 27U;
    return (state_ * 0x2545f4914f6cdd1dULL >> 11U) % bound;
  }

 private:
  std::uint64_t state_;
};

/// The seed of a random test: PEAKCAST_TEST_SEED, or 1.
inline std::uint64_t test_seed() {
  const char* text =
      std::getenv("PEAKCAST_TEST_SEED");  // NOLINT(concurrency-mt-unsafe): one thread
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

/// Sizes from 1 byte to 96 MiB, evenly over their logarithms; two streams; buffers freed in any
/// order; now and then another stream's use, an emptied cache, a new iteration.
inline Program random_program(std::uint64_t seed, std::size_t steps) {
  Draws draws{seed};
  Program program;
  std::vector<std::uint32_t> live;
  std::uint32_t allocated{};
  for (std::size_t i = 0; i < steps; ++i) {
    const std::uint64_t roll = draws.below(100);
    if (roll < 1) {
      program.push_back({Step::Kind::empty_cache, 0, 0, 0});
    } else if (roll < 3) {
      program.push_back({Step::Kind::iteration, 0, 0, 0});
    } else if (roll < 8 && !live.empty()) {
      program.push_back({Step::Kind::record, 0, static_cast<std::uint32_t>(draws.below(3)),
                         live[draws.below(live.size())]});
    } else if (roll < 50 && !live.empty()) {
      const std::size_t pick = draws.below(live.size());
      program.push_back({Step::Kind::free, 0, 0, live[pick]});
      live[pick] = live.back();
      live.pop_back();
    } else {
      const std::uint64_t top = std::uint64_t{1} << draws.below(26);
      const auto size = static_cast<std::int64_t>(top + draws.below(top / 2 + 1));
      program.push_back({Step::Kind::allocate, size, draws.below(4) == 0 ? 1U : 0U, 0});
      live.push_back(allocated++);
    }
  }
  return program;
}

}  // namespace peakcast::testing
