#pragma once

#include <cstdint>

#include "allocators/registry.hpp"
#include "sim/core/error.hpp"

namespace peakcast::near_floor {

/// What the policy trades for what. Parts are per million of the largest live sum so far. Until a
/// twentieth of what was handed out has been dropped (a model is being loaded, and more will live
/// than lives now), handles, slack and growth may be larger by a factor.
///
/// A handle costs 48 us of the driver's time (H100, driver_costs.cpp) and each further mapping of
/// it 24; the end parts of holes, of half a handle on average, are what stitching cannot use.
/// Chosen on the recordings of GT (tests/support/policy_study.py): halving the handles of `tight`
/// takes a tenth of a percent off what is held and doubles what they cost.
struct Tuning {
  std::int64_t handle{};          ///< size of a physical handle: the grain of stitching
  std::int64_t handle_minimum{};  ///< bytes
  std::int64_t slack{};           ///< how far over the largest live sum growth may go
  std::int64_t growth{};          ///< the least growth, as long as that is within the slack
  std::int64_t growth_minimum{};  ///< bytes
  std::int64_t early_handles{};   ///< factor
  std::int64_t early_growth{};    ///< factor, of slack and growth
};

/// Near the floor: the default.
inline constexpr Tuning kTight{.handle = 1'200,
                               .handle_minimum = std::int64_t{2} << 20,
                               .slack = 1'000,
                               .growth = 1'500,
                               .growth_minimum = 0,
                               .early_handles = 8,
                               .early_growth = 1};
/// Few driver calls: within a few percent.
inline constexpr Tuning kFast{.handle = 18'000,
                              .handle_minimum = std::int64_t{16} << 20,
                              .slack = 18'000,
                              .growth = 18'000,
                              .growth_minimum = std::int64_t{16} << 20,
                              .early_handles = 4,
                              .early_growth = 4};

/// alloc_conf is empty, "tight" or "fast".
[[nodiscard]] Expected<Tuning> read_tuning(const PolicyOptions& options);

}  // namespace peakcast::near_floor
