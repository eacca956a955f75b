#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/run_flags.hpp"
#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast::app {

/// A way to spread a run over ranks, of those that are modelled natively.
struct Split {
  Parallel parallel{};
  Shard shard{};                     ///< fsdp1
  bool reshard_after_forward{true};  ///< fsdp2
  friend bool operator==(const Split&, const Split&) = default;
};

/// What is searched, each list in the order in which its values are tried.
struct PlanAxes {
  std::vector<std::int64_t> worlds{};  ///< ascending; each divides the global batch
  std::vector<Split> splits{};
  std::vector<Checkpoint> checkpoints{};
  std::vector<std::string> alloc_confs{};
  std::optional<std::int64_t> batch{};  ///< the micro-batch, where it is given
};

/// What is run: everything but the allocator's settings, which take the same program.
struct Combination {
  std::int64_t world{1};
  Split split{};
  Checkpoint checkpoint{};
  std::int64_t batch{1};       ///< of one micro-batch
  std::int64_t accumulate{1};  ///< world x batch x accumulate = the global batch
};

/// "8..512", "8,16,64", "16": of a range those that divide `global_batch` and, beyond one node, are
/// whole nodes of `per_node` cards; of a list each must divide it.
[[nodiscard]] Expected<std::vector<std::int64_t>> parse_worlds(std::string_view text,
                                                               std::int64_t global_batch,
                                                               std::int64_t per_node);

/// All ways that are modelled: one card, DDP, FSDP and ZeRO with each of their stages.
[[nodiscard]] std::vector<Split> every_split();

/// More than these to a step are not tried.
inline constexpr std::int64_t kMostMicroBatches = 1024;

/// By world, split, checkpointing, then the largest micro-batch first. One card is not split, and
/// hybrid shards need more than one node of whole nodes.
[[nodiscard]] std::vector<Combination> combinations(const PlanAxes& axes,
                                                    std::int64_t global_batch);

/// `run` spread as `at` says.
[[nodiscard]] Run spread(Run run, const Combination& at, const std::string& alloc_conf);

/// The flags that make the base run this one: "--parallel fsdp2 --world 64 --batch 2 ...".
[[nodiscard]] std::string flags_text(const Combination& at, const std::string& alloc_conf);

/// Bytes that every rank holds at one moment of the first step, whatever its batch: by definition
/// of the splits and optimizers. Zero where nothing is known.
[[nodiscard]] Bytes least_states(const Run& run, const Combination& at);

}  // namespace peakcast::app
