#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/run_flags.hpp"
#include "sim/app/verdict.hpp"
#include "sim/core/units.hpp"

namespace peakcast::app {

/// What a run takes and how long its step is.
struct Cost {
  Bytes peak_reserved{};
  Bytes peak_device{};  ///< with what lies outside the allocator
  SimDuration step{};   ///< the last iteration
  Bytes spare{};
};

/// A set of changes that was run in place of a run.
struct Remedy {
  std::string flags{};  ///< what to add or replace on the command line
  Verdict verdict{};    ///< on the same card, unless another card is the change
  bool hardware{};      ///< needs other or more cards
  Cost cost{};
};

/// What else could be done. Every figure is of a run that was simulated.
struct Advice {
  /// The run as it is, with room enough; none when 1 TiB is too little for it.
  std::optional<Cost> unbounded{};
  /// Sets that fit, in the order of their step time. None is a superset of another that keeps as
  /// large a micro-batch: it would cost more and bring nothing.
  std::vector<Remedy> remedies{};
  std::int64_t runs{};
  bool complete{true};  ///< false: the work ran out before every set was tried
  /// Steps of more micro-batches than this were run with so many, and their time extrapolated: from
  /// the third on a micro-batch does what the one before did.
  static constexpr std::int64_t kMicroBatches = 4;
};

/// Looks for the cheapest sets of changes under which `run` fits: allocator settings, fused
/// attention and optimizer, checkpointing, the batch in smaller micro-batches (the same samples a
/// step), then shards on the fewest ranks, the smallest other card. Work is bounded by operations,
/// not by time, so that equal runs get equal advice.
[[nodiscard]] Advice advise(const Run& run, const Evidence& evidence, const Margin& margin);

}  // namespace peakcast::app
