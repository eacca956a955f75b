#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "workloads/card_costs.hpp"
#include "workloads/generate.hpp"
#include "workloads/parallel/data_parallel.hpp"
#include "workloads/parallel/fsdp2.hpp"

namespace peakcast {
namespace {

constexpr std::int64_t kLayers = 6;
constexpr std::int64_t kMiB = 1 << 20;

/// BERT-large with six layers: a layer has 12 * 1024^2 + 13 * 1024 parameters, all multiples of 16
/// bytes, so that nothing is padded on 2, 4 or 8 ranks.
constexpr std::int64_t kLayerElements = 12 * 1024 * 1024 + 13 * 1024;
constexpr std::int64_t kEmbeddingElements = 30522 * 1024 + 512 * 1024 + 2 * 1024 + 2 * 1024;
constexpr std::int64_t kHeadElements = 1024 * 1024 + 1024 + 2 * 1024 + 30522;
constexpr std::int64_t kElements = kLayers * kLayerElements + kEmbeddingElements + kHeadElements;

RunSpec bert(Parallel parallel, std::int64_t world) {
  RunSpec spec;
  spec.model = "bert-large";
  spec.task = "mlm";
  spec.overrides = {{"num_hidden_layers", std::to_string(kLayers)}};
  spec.shapes = {{2, 128}};
  spec.iterations = 2;
  spec.parallel = parallel;
  spec.world = world;
  spec.shard_precision = ShardPrecision::bf16;
  return spec;
}

Trace program(const RunSpec& spec) {
  static const CardCosts costs{reference_gpu()};
  auto trace = generate(spec, {.cost_model = &costs});
  EXPECT_TRUE(trace.has_value());
  return std::move(trace).value();
}

/// Requested bytes that live when phase `phase` begins for the last time.
std::int64_t live_at(const Trace& trace, std::string_view phase) {
  std::vector<std::int64_t> size(trace.buffer_slots);
  std::int64_t live = 0;
  std::int64_t found = -1;
  for (const Op& op : trace.ops) {
    if (op.kind == OpKind::allocate) {
      size[op.id] = op.value;
      live += op.value;
    } else if (op.kind == OpKind::free) {
      live -= size[op.id];
    } else if (op.kind == OpKind::mark && mark_kind_of(op) == MarkKind::phase &&
               trace.strings[op.id] == phase) {
      found = live;
    }
  }
  return found;
}

/// The most buffers of exactly `bytes` on stream `stream` that live at once after `phase` begins
/// for the last time.
std::int64_t most_alive(const Trace& trace, std::int64_t bytes, std::uint16_t stream,
                        std::string_view phase) {
  std::vector<bool> counted(trace.buffer_slots);
  std::int64_t live = 0;
  std::int64_t most = 0;
  for (const Op& op : trace.ops) {
    if (op.kind == OpKind::allocate && op.value == bytes && op.stream == stream) {
      counted[op.id] = true;
      most = std::max(most, ++live);
    } else if (op.kind == OpKind::free && counted[op.id]) {
      counted[op.id] = false;
      --live;
    } else if (op.kind == OpKind::mark && mark_kind_of(op) == MarkKind::phase &&
               trace.strings[op.id] == phase) {
      most = live;
    }
  }
  return most;
}

Statistics run(const Trace& trace) {
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(trace.streams.size())}};
  SimulatedDevice device{{.spec = {.name = "test",
                                   .total = Bytes{80LL << 30},
                                   .granularity = Bytes{2 * kMiB},
                                   .compute_major = 9,
                                   .compute_minor = 0},
                          .streams = &clock}};
  const auto allocator = std::move(make_policy("pytorch", device, clock, {})).value();
  const TimedReplay timing{.streams = &clock};
  return replay(trace, *allocator, device, {.timing = &timing}).statistics;
}

// SHARD_GRAD_OP keeps every layer's gathered parameters (2 bytes each) from forward to backward;
// the root keeps its own either way.
TEST(Fsdp1, ShardGradOpKeepsTheLayersGatheredBetweenForwardAndBackward) {
  RunSpec spec = bert(Parallel::fsdp1, 4);
  const std::int64_t full = live_at(program(spec), "backward");
  spec.shard = Shard::grad_op;
  const std::int64_t grad_op = live_at(program(spec), "backward");
  EXPECT_EQ(grad_op - full, kLayers * 2 * kLayerElements);
}

// BACKWARD_PRE gathers the next layer before this one's gradients: two layers, and the flat
// gradient that the split's backward makes on the same stream. Without prefetch it is one of each.
TEST(Fsdp1, BackwardPrefetchHoldsOneMoreLayer) {
  RunSpec spec = bert(Parallel::fsdp1, 4);
  constexpr std::uint16_t kUnshardStream = 1;
  const std::int64_t with =
      most_alive(program(spec), 2 * kLayerElements, kUnshardStream, "backward");
  spec.backward_prefetch = Prefetch::none;
  const std::int64_t without =
      most_alive(program(spec), 2 * kLayerElements, kUnshardStream, "backward");
  EXPECT_EQ(with, 3);
  EXPECT_EQ(without, 2);
}

// A card that is slower than its host: without the limiter the host issues every all-gather of the
// forward pass before the first layer's memory comes back; with it, two are in flight.
// In kind: pytorch issue 98354 (38.8 GB reserved without the limiter, 8.0 GB with it).
TEST(Fsdp1, WithoutTheRateLimiterTheHostRunsAheadAndReservedMemoryGrows) {
  RunSpec spec = bert(Parallel::fsdp1, 4);
  spec.overrides = {{"num_hidden_layers", "24"}};
  spec.shapes = {{64, 512}};
  spec.checkpoint = Checkpoint::full;
  const Statistics on = run(program(spec));
  spec.limit_all_gathers = false;
  const Statistics off = run(program(spec));
  EXPECT_EQ(on.requested.peak, off.requested.peak);  // the program asks for the same
  EXPECT_GT(off.reserved.peak - on.reserved.peak, 20 * kLayerElements);
}

TEST(Fsdp2, ReshardAfterForwardFreesTheGatheredParameters) {
  RunSpec spec = bert(Parallel::fsdp2, 4);
  const std::int64_t on = live_at(program(spec), "backward");
  spec.reshard_after_forward = false;
  const std::int64_t off = live_at(program(spec), "backward");
  // The root's parameters as well: words, positions, types, norm, head transform and bias. Rows are
  // padded to a multiple of the ranks: 30522 to 30524, and the 2 token types to 4.
  const std::int64_t root =
      30524 * 1024 + 512 * 1024 + 4 * 1024 + 2 * 1024 + (1024 * 1024 + 1024) + 2 * 1024 + 30524;
  EXPECT_EQ(off - on, 2 * (kLayers * kLayerElements + root));
}

// Shards, their gradients and AdamW's two moments: 4 * 4 bytes for a parameter over the ranks.
TEST(Fsdp2, WhatARankKeepsFallsWithTheRanks) {
  const auto kept = [](std::int64_t world) {
    return live_at(program(bert(Parallel::fsdp2, world)), "end");
  };
  const std::int64_t difference = kept(2) - kept(8);
  EXPECT_NEAR(static_cast<double>(difference),
              16.0 * static_cast<double>(kElements) * (0.5 - 0.125),
              0.001 * static_cast<double>(difference));
}

RunSpec zero(Parallel stage, std::int64_t world) {
  RunSpec spec = bert(stage, world);
  spec.shard_precision = ShardPrecision::same;
  spec.precision = Precision::bf16;
  return spec;
}

// A rank keeps 4 bytes of master and 8 of AdamW's moments for its elements; at stage 3 also their
// bf16 parameter and gradient.
TEST(Zero, WhatARankKeepsFallsWithTheRanks) {
  const auto kept = [](Parallel stage, std::int64_t world) {
    return static_cast<double>(live_at(program(zero(stage, world)), "end"));
  };
  constexpr auto kAll = static_cast<double>(kElements);
  for (const Parallel stage : {Parallel::zero1, Parallel::zero2}) {
    EXPECT_NEAR(kept(stage, 2) - kept(stage, 8), 12.0 * kAll * (0.5 - 0.125), 0.001 * kAll);
  }
  EXPECT_NEAR(kept(Parallel::zero3, 2) - kept(Parallel::zero3, 8), 16.0 * kAll * (0.5 - 0.125),
              0.001 * kAll);
}

// Stage 1 holds all gradients until the pass is over, stage 2 those of its own partition. The
// bucket of 500 million elements is there within a backward, at stage 3 always.
TEST(Zero, StagesDifferInWhatLivesAtThePeak) {
  const auto peak = [](Parallel stage) { return run(program(zero(stage, 8))).requested.peak; };
  EXPECT_GT(peak(Parallel::zero1), peak(Parallel::zero2));
  for (const Parallel stage : {Parallel::zero1, Parallel::zero2, Parallel::zero3}) {
    EXPECT_GT(peak(stage), 1'000'000'000);
  }
  EXPECT_LT(live_at(program(zero(Parallel::zero2, 8)), "step"), 1'000'000'000);
  EXPECT_GT(live_at(program(zero(Parallel::zero3, 8)), "step"), 1'000'000'000);
}

TEST(Zero, WhatIsNotModelledIsRefused) {
  RunSpec spec = zero(Parallel::zero3, 2);
  spec.checkpoint = Checkpoint::full_reentrant;
  EXPECT_FALSE(generate(spec).has_value());
  for (const Parallel stage : {Parallel::zero1, Parallel::zero2, Parallel::zero3}) {
    spec = zero(stage, 2);
    spec.precision = Precision::fp16_amp;
    EXPECT_FALSE(generate(spec).has_value());
  }
}

TEST(DataParallel, EveryRankIsPossibleAndTheChunksTileTheWhole) {
  for (const std::int64_t elements : {1, 7, 8, 1000003}) {
    for (const std::int64_t ranks : {1, 2, 7, 1024}) {
      std::int64_t sum = 0;
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const torch::Chunk chunk = torch::chunk_of(elements, ranks, rank);
        EXPECT_EQ(chunk.begin, sum);
        EXPECT_LE(chunk.length, chunk.padded);
        sum += chunk.length;
      }
      EXPECT_EQ(sum, elements);
    }
  }
}

TEST(DataParallel, EveryWayRunsOnEveryRankOfAnOddWorld) {
  for (const Parallel parallel : {Parallel::ddp, Parallel::fsdp1, Parallel::fsdp2, Parallel::zero1,
                                  Parallel::zero2, Parallel::zero3}) {
    for (const std::int64_t rank : {0, 3, 6}) {
      RunSpec spec = bert(parallel, 7);
      spec.rank = rank;
      spec.accumulate = 2;
      EXPECT_GT(run(program(spec)).allocated.peak, 0);
    }
  }
}

// Recorded on an H100 (132 multiprocessors, 2048 threads each): four layers of llama-1b on 8 ranks.
TEST(Fsdp2, TheIndicesOfItsCopiesHaveTheRecordedSizes) {
  const GpuTraits h100 = traits_of(reference_gpu());
  EXPECT_EQ(torch::split_copy_index_bytes({16384000, 512, 16384000}, 8, h100), Bytes{21456});
  const std::vector<std::int64_t> layer{1048576, 262144,  262144, 1048576, 4194304,
                                        4194304, 4194304, 512,    512};
  EXPECT_EQ(torch::split_copy_index_bytes(layer, 8, h100), Bytes{15160});
  std::vector<std::int64_t> fp32 = layer;
  for (std::int64_t& bytes : fp32) {
    bytes *= 2;
  }
  EXPECT_EQ(torch::chunk_cat_index_bytes(fp32), Bytes{119248});
}

}  // namespace
}  // namespace peakcast
