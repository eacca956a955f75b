#pragma once

#include <cstdint>

#include "allocators/registry.hpp"
#include "sim/core/error.hpp"

namespace peakcast::near_floor {

/// What the policy trades for what. Parts are per million of the largest live sum so far.
struct Tuning {
  std::int64_t handle{};          ///< size of a physical handle: the grain of stitching
  std::int64_t handle_minimum{};  ///< bytes
  std::int64_t first_handles{};   ///< times as large, while little has been freed
  std::int64_t slack{};           ///< how far over the largest live sum growth may go
  std::int64_t growth{};          ///< the least growth, as long as that is within the slack
};

/// Near the floor: the default.
inline constexpr Tuning kTight{.handle = 700,
                               .handle_minimum = std::int64_t{2} << 20,
                               .first_handles = 2,
                               .slack = 1'000,
                               .growth = 1'500};
/// Few driver calls.
inline constexpr Tuning kFast{.handle = 12'000,
                              .handle_minimum = std::int64_t{8} << 20,
                              .first_handles = 1,
                              .slack = 10'000,
                              .growth = 10'000};

/// alloc_conf is empty, "tight" or "fast".
[[nodiscard]] Expected<Tuning> read_tuning(const PolicyOptions& options);

}  // namespace peakcast::near_floor
