#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/plan_grid.hpp"
#include "sim/app/predict_answer.hpp"

namespace peakcast::app {

enum class PlanSort : std::uint8_t {
  time,   ///< the shortest step first
  cards,  ///< the fewest cards first
};

/// `plan`: how many cards, and how to spread a run over them?
struct PlanQuestion {
  Run run{};  ///< all that is not searched
  Margin margin{};
  std::int64_t global_batch{1};  ///< samples a step, over all cards
  PlanAxes axes{};
  std::size_t top{10};
  PlanSort sort{};
  /// False: every combination is run to its end. The answer is the same (a test compares).
  bool prunes{true};
};

/// A combination that fits, as it was predicted.
struct Candidate {
  Combination at{};
  std::string alloc_conf{};
  Verdict verdict{};
  Bytes peak_reserved{};
  Bytes peak_device{};
  Headroom headroom{};
  SimDuration step{};                ///< the last iteration
  TimeSplit split{};                 ///< of it
  std::int64_t tokens_per_second{};  ///< of all cards
  /// "compute" (products of matrices and attention), "memory traffic" (all other kernels),
  /// "communication", "host" or "allocator".
  std::string_view bound_by{};
};

struct PlanAnswer {
  PlanQuestion question{};
  /// In the order asked for. Of each way to spread over each number of cards only the best stands
  /// here: with the shortest step, of combinations that fit with room if there are any.
  std::vector<Candidate> candidates{};
  // Of the combinations:
  std::int64_t combinations{};
  std::int64_t fitting{};
  std::int64_t out_of_memory{};
  std::int64_t slower{};               ///< proven to be, without being run
  std::int64_t not_modelled{};         ///< natively
  std::string not_modelled_because{};  ///< the first one's reason

  [[nodiscard]] bool fits() const { return !candidates.empty(); }
};

/// Hears of how many of how many combinations are decided.
using OnCombination = std::function<void(std::size_t done, std::size_t of)>;

/// Throws Fault: the run cannot be made, or no combination is modelled.
[[nodiscard]] PlanAnswer answer(const PlanQuestion& question, const OnCombination& heard = {});

[[nodiscard]] const Writers<PlanAnswer>& plan_writers();

}  // namespace peakcast::app
