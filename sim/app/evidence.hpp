#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sim/app/run_flags.hpp"
#include "sim/core/units.hpp"

namespace peakcast::app {

/// A training run that was recorded on a card, predicted from its description: how far off.
/// Source: evidence/recordings.csv, which tests/support/evidence.py writes and a test checks.
struct Recorded {
  std::string recording{};
  std::string family{};
  std::string precision{};
  std::string parallel{};
  std::string gpu{};
  std::string policy{};
  Bytes reserved{};         ///< peak, as recorded
  Bytes allocated_error{};  ///< predicted less recorded
  Bytes reserved_error{};
};
[[nodiscard]] std::span<const Recorded> recordings();

/// How sure an answer is: the recordings that are most like the run, and what sets it apart.
struct Evidence {
  std::int64_t recordings{};  ///< that are like the run
  std::int64_t exact{};       ///< of them, with allocated and reserved peaks equal to the byte
  /// The largest error of a reserved peak among them, either way, in millionths of it; among all
  /// recordings where none is like the run.
  std::int64_t worst_ppm{};
  std::vector<std::string> unlike{};  ///< what none of them shares with the run: "on a100-40g"

  /// That error of a reserved peak of `reserved`, rounded up.
  [[nodiscard]] Bytes expected_error(Bytes reserved) const;
};

/// Those that share parallelism, policy, family, precision and card with `run`; as long as there
/// are fewer than three, the last of these is given up, and listed in `unlike`. Parallelism and
/// policy are never given up: without them there is no evidence.
[[nodiscard]] Evidence evidence_for(const Run& run);

}  // namespace peakcast::app
