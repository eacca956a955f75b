#include "sim/app/plan_grid.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "workloads/parallel/data_parallel.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t number{};
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  const bool read = error == std::errc{} && stopped == end && number >= 1 && number <= kMost;
  return read ? std::optional{number} : std::nullopt;
}

Expected<std::vector<std::int64_t>> worlds_in_range(std::int64_t from, std::int64_t to,
                                                    std::int64_t global_batch,
                                                    std::int64_t per_node) {
  std::vector<std::int64_t> worlds;
  for (std::int64_t world = from; world <= std::min(to, global_batch); ++world) {
    if (global_batch % world == 0 && (world <= per_node || world % per_node == 0)) {
      worlds.push_back(world);
    }
  }
  if (worlds.empty()) {
    return invalid_input(fmt::format(
        "no number of cards in {}..{} divides the global batch of {} (beyond {} only whole nodes "
        "count; a list, as in 12,20, is taken as it is)",
        from, to, global_batch, per_node));
  }
  return worlds;
}

std::vector<std::int64_t> divisors_of(std::int64_t number) {
  std::vector<std::int64_t> found;
  for (std::int64_t divisor = number; divisor >= 1; --divisor) {
    if (number % divisor == 0) {
      found.push_back(divisor);
    }
  }
  return found;
}

bool is_possible(std::int64_t world, const Split& split) {
  if (world == 1) {
    return split.parallel == Parallel::none;
  }
  const bool hybrid = split.parallel == Parallel::fsdp1 && split.shard == Shard::hybrid;
  return split.parallel != Parallel::none &&
         (!hybrid || (world > torch::kCardsPerNode && world % torch::kCardsPerNode == 0));
}

std::int64_t parameter_bytes(const Run& run) {
  constexpr std::int64_t kHalf = 2;
  constexpr std::int64_t kSingle = 4;
  const bool half = run.spec.precision == Precision::bf16 || run.spec.precision == Precision::fp16;
  return half ? kHalf : kSingle;
}

/// Tensors as large as the parameters, which an optimizer keeps; 0 where that is not so simple.
std::int64_t states_of(OptimizerKind optimizer) {
  switch (optimizer) {
    case OptimizerKind::adamw:
    case OptimizerKind::adamw_fused:
    case OptimizerKind::adamw_single:
    case OptimizerKind::adam:
      return 2;  // both moments
    case OptimizerKind::sgd:
      return 1;  // momentum
    default:
      return 0;
  }
}

}  // namespace

Expected<std::vector<std::int64_t>> parse_worlds(std::string_view text, std::int64_t global_batch,
                                                 std::int64_t per_node) {
  const auto wrong = [&](std::string_view item) {
    return invalid_input(
        fmt::format("'{}' is no number of cards: as in 8..512, 8,16,64 or 16", item));
  };
  if (const std::size_t dots = text.find(".."); dots != std::string_view::npos) {
    const auto from = number_of(text.substr(0, dots));
    const auto to = number_of(text.substr(dots + 2));
    if (!from || !to || *from > *to) {
      return wrong(text);
    }
    return worlds_in_range(*from, *to, global_batch, per_node);
  }
  std::vector<std::int64_t> worlds;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t comma = std::min(text.find(',', from), text.size());
    const auto world = number_of(text.substr(from, comma - from));
    if (!world) {
      return wrong(text.substr(from, comma - from));
    }
    if (global_batch % *world != 0) {
      return invalid_input(
          fmt::format("{} cards do not divide the global batch of {}", *world, global_batch));
    }
    worlds.push_back(*world);
    from = comma + 1;
  }
  std::sort(worlds.begin(), worlds.end());
  worlds.erase(std::unique(worlds.begin(), worlds.end()), worlds.end());
  return worlds;
}

std::vector<Split> every_split() {
  return {{.parallel = Parallel::none},
          {.parallel = Parallel::ddp},
          {.parallel = Parallel::fsdp1, .shard = Shard::full},
          {.parallel = Parallel::fsdp1, .shard = Shard::grad_op},
          {.parallel = Parallel::fsdp1, .shard = Shard::hybrid},
          {.parallel = Parallel::fsdp2},
          {.parallel = Parallel::fsdp2, .reshard_after_forward = false},
          {.parallel = Parallel::zero1},
          {.parallel = Parallel::zero2},
          {.parallel = Parallel::zero3}};
}

std::vector<Combination> combinations(const PlanAxes& axes, std::int64_t global_batch) {
  std::vector<Combination> all;
  for (const std::int64_t world : axes.worlds) {
    const std::int64_t share = global_batch / world;
    std::vector<std::int64_t> batches = divisors_of(share);
    std::erase_if(batches, [&](std::int64_t batch) {
      return (axes.batch && batch != *axes.batch) || share / batch > kMostMicroBatches;
    });
    for (const Split& split : axes.splits) {
      if (!is_possible(world, split)) {
        continue;
      }
      for (const Checkpoint checkpoint : axes.checkpoints) {
        for (const std::int64_t batch : batches) {
          all.push_back({world, split, checkpoint, batch, share / batch});
        }
      }
    }
  }
  return all;
}

Run spread(Run run, const Combination& at, const std::string& alloc_conf) {
  run.spec.parallel = at.split.parallel;
  run.spec.shard = at.split.shard;
  run.spec.reshard_after_forward = at.split.reshard_after_forward;
  run.spec.world = at.world;
  run.spec.checkpoint = at.checkpoint;
  run.spec.shapes.front().batch = at.batch;
  run.spec.accumulate = at.accumulate;
  run.alloc_conf = alloc_conf;
  return run;
}

std::string flags_text(const Combination& at, const std::string& alloc_conf) {
  std::string flags;
  if (at.split.parallel != Parallel::none) {
    flags = fmt::format("--parallel {} --world {} ", word_of(at.split.parallel), at.world);
  }
  if (at.split.parallel == Parallel::fsdp1 && at.split.shard != Shard::full) {
    flags += fmt::format("--shard {} ", word_of(at.split.shard));
  }
  if (at.split.parallel == Parallel::fsdp2 && !at.split.reshard_after_forward) {
    flags += "--reshard-after-forward off ";
  }
  flags += fmt::format("--batch {}", at.batch);
  if (at.accumulate > 1) {
    flags += fmt::format(" --accumulate {}", at.accumulate);
  }
  if (at.checkpoint != Checkpoint::none) {
    flags += fmt::format(" --checkpoint {}", word_of(at.checkpoint));
  }
  if (!alloc_conf.empty()) {
    flags += fmt::format(" --alloc-conf {}", alloc_conf);
  }
  return flags;
}

// - Without shards, and under ZeRO-1 and 2, the parameters stand whole on each card (Rajbhandari et
//   al. 2020, "ZeRO", section 5; a half type is the least that DeepSpeed keeps them in).
// - Where layers stay gathered after the forward pass, the last one finds all others whole.
// - Fully sharded, parameters, gradients and the optimizer's states are on the card together at the
//   end of the first step, each split in equal parts; DeepSpeed may keep more of them, not less.
Bytes least_states(const Run& run, const Combination& at) {
  if (run.spec.lora.rank > 0 || !run.spec.freeze.empty() || run.spec.quantize != Quantize::none) {
    return Bytes{};  // not all parameters are of one type, or train
  }
  constexpr std::int64_t kHalf = 2;
  const std::int64_t count = parameter_count(run.model);
  const std::int64_t each = parameter_bytes(run);
  const Split& split = at.split;
  const bool whole = split.parallel == Parallel::none || split.parallel == Parallel::ddp;
  const bool kept = (split.parallel == Parallel::fsdp1 && split.shard != Shard::full &&
                     split.shard != Shard::hybrid) ||
                    (split.parallel == Parallel::fsdp2 && !split.reshard_after_forward);
  if (whole) {
    return Bytes{count * each};
  }
  if (kept || split.parallel == Parallel::zero1 || split.parallel == Parallel::zero2) {
    return Bytes{count * kHalf};
  }
  const bool hybrid = split.parallel == Parallel::fsdp1 && split.shard == Shard::hybrid;
  const std::int64_t parts = hybrid ? std::min(at.world, torch::kCardsPerNode) : at.world;
  const std::int64_t copies = is_zero(split.parallel) ? 1 : 2 + states_of(run.spec.optimizer);
  return Bytes{count / parts * copies * (is_zero(split.parallel) ? kHalf : each)};
}

}  // namespace peakcast::app
