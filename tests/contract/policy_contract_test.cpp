// Does every registered policy keep the Allocator's promises? A new row of the registry is a tested
// policy.

#include <cctype>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/alloc/check_heap.hpp"
#include "sim/alloc/referee.hpp"
#include "sim/device/held_streams.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/random_program.hpp"
#include "tests/support/test_card.hpp"

namespace peakcast {
namespace {

using namespace literals;

HeapRules rules_of(std::string_view policy) {
  // Buddies, slabs, superblocks, stitched parts and a plan's arena may touch while free.
  const bool coalesces = policy == "bfc" || policy == "pytorch" || policy == "rmm-pool" ||
                         policy == "tlsf" || policy == "deferred-defrag";
  return {.coalesces = coalesces, .hides_memory = policy == "cuda-malloc-async"};
}

class Collected final : public EventSink {
 public:
  void on_event(const AllocatorEvent& event) override { events.push_back(event); }
  std::vector<AllocatorEvent> events{};
};

class PolicyContract : public ::testing::TestWithParam<PolicyEntry> {
 protected:
  struct Bench {
    explicit Bench(const PolicyEntry& entry, Bytes card = Bytes{1 << 30},
                   std::optional<Bytes> limit = std::nullopt)
        : device{testing::test_card(card)} {
      auto made = entry.make(device, streams, PolicyOptions{.limit = limit});
      EXPECT_TRUE(made) << made.error().message;
      policy = std::make_unique<Referee>(std::move(made).value());
    }
    Placement must_allocate(Bytes size, StreamId stream = {}) {
      const AllocOutcome outcome = policy->allocate({size, stream});
      EXPECT_TRUE(std::holds_alternative<Placement>(outcome));
      return std::get<Placement>(outcome);
    }
    void expect_sound(const PolicyEntry& entry) const {
      const auto checked = check_heap(policy->view(), policy->statistics(), rules_of(entry.name));
      EXPECT_TRUE(checked) << checked.error().message;
      EXPECT_EQ(policy->fault(), std::nullopt);
    }
    SimulatedDevice device;
    HeldStreams streams{};
    std::unique_ptr<Allocator> policy{};
  };
};

TEST_P(PolicyContract, SaysItsName) {
  Bench bench{GetParam()};
  EXPECT_EQ(bench.policy->name(), GetParam().name);
  EXPECT_FALSE(GetParam().summary.empty());
  EXPECT_FALSE(GetParam().source.empty());
}

TEST_P(PolicyContract, ServesEverySizeFromOneByteOn) {
  Bench bench{GetParam()};
  std::vector<Placement> placements;
  for (const std::int64_t size :
       {1LL, 511LL, 512LL, 513LL, 1048576LL, 1048577LL, 2097152LL, 10485759LL, 10485760LL}) {
    placements.push_back(bench.must_allocate(Bytes{size}));
    EXPECT_GE(placements.back().size, Bytes{size});
    bench.expect_sound(GetParam());
  }
  for (const Placement& placement : placements) {
    bench.policy->deallocate(placement.block);
    bench.expect_sound(GetParam());
  }
  EXPECT_EQ(bench.policy->statistics().allocated.current, 0);
  EXPECT_EQ(bench.policy->statistics().requested.current, 0);
}

TEST_P(PolicyContract, CountsRequestedBelowAllocatedBelowReserved) {
  Bench bench{GetParam()};
  std::vector<Placement> placements;
  for (std::int64_t i = 1; i <= 50; ++i) {
    placements.push_back(bench.must_allocate(Bytes{i * 77'777}));
    const Statistics& now = bench.policy->statistics();
    EXPECT_LE(now.requested.current, now.allocated.current);
    EXPECT_LE(now.allocated.current, now.reserved.current);
    EXPECT_LE(now.reserved.current, (1_GiB).count());
  }
}

TEST_P(PolicyContract, FailsAsAnOutcomeWhenTheCardIsFull) {
  Bench bench{GetParam(), 64_MiB};
  std::vector<Placement> placements;
  bool failed = false;
  for (int i = 0; i < 100 && !failed; ++i) {
    const AllocOutcome outcome = bench.policy->allocate({3_MiB, {}});
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
      placements.push_back(*placement);
    } else {
      failed = true;
      const auto& oom = std::get<OutOfMemory>(outcome);
      EXPECT_EQ(oom.requested, 3_MiB);
      EXPECT_GE(oom.rounded, 3_MiB);
      EXPECT_GE(bench.policy->statistics().num_ooms, 1);
    }
    bench.expect_sound(GetParam());
  }
  // A policy with a host tier moves the rest there and goes on.
  EXPECT_EQ(failed, GetParam().name != "swap");
  for (const Placement& placement : placements) {
    bench.policy->deallocate(placement.block);
  }
  bench.expect_sound(GetParam());
}

TEST_P(PolicyContract, FillsASmallCardToTheLastByteAgainAndAgain) {
  Bench bench{GetParam(), 40_MiB};  // the driver's pool grows by 32
  for (int round = 0; round < 80; ++round) {
    std::vector<Placement> placements;
    for (const Bytes size : {3_MiB, 200_KiB, 1_B}) {
      AllocOutcome outcome = bench.policy->allocate({size, {}});
      // A policy that has a tier on the host is never full.
      for (int i = 0; i < 1000 && std::holds_alternative<Placement>(outcome); ++i) {
        placements.push_back(std::get<Placement>(outcome));
        outcome = bench.policy->allocate({size, {}});
      }
      if (const auto* last = std::get_if<Placement>(&outcome)) {
        placements.push_back(*last);
      }
    }
    EXPECT_GE(placements.size(), 2U);
    bench.expect_sound(GetParam());
    for (const Placement& placement : placements) {
      bench.policy->deallocate(placement.block);
    }
    bench.policy->empty_cache();
    bench.expect_sound(GetParam());
  }
}

TEST_P(PolicyContract, RefusesMoreThanTheCardWithoutArithmeticAccidents) {
  Bench bench{GetParam()};
  for (const std::int64_t size :
       {std::int64_t{1} << 40, std::int64_t{1} << 59, std::int64_t{0x7fffffffffffffff}}) {
    EXPECT_TRUE(std::holds_alternative<OutOfMemory>(bench.policy->allocate({Bytes{size}, {}})));
    bench.expect_sound(GetParam());
  }
}

TEST_P(PolicyContract, StaysWithinItsOwnLimit) {
  Bench bench{GetParam(), 1_GiB, 48_MiB};
  std::vector<Placement> placements;
  for (int i = 0; i < 200; ++i) {
    const AllocOutcome outcome = bench.policy->allocate({1_MiB + 1_B, {}});
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
      placements.push_back(*placement);
    }
  }
  EXPECT_FALSE(placements.empty());
  const Statistics& now = bench.policy->statistics();
  // The driver's pool counts its limit in bytes that are used, as PyTorch's backend does.
  EXPECT_LE(GetParam().name == "cuda-malloc-async" ? now.allocated.peak : now.reserved.peak,
            (48_MiB).count());
  bench.expect_sound(GetParam());
}

TEST_P(PolicyContract, HoldsABlockBackUntilTheOtherStreamIsDone) {
  Bench bench{GetParam()};
  const Placement used = bench.must_allocate(4_MiB);
  bench.policy->record_stream(used.block, StreamId{1});
  const std::size_t events = bench.streams.recorded();
  bench.policy->deallocate(used.block);
  if (bench.streams.recorded() == events) {
    GTEST_SKIP() << "its free waits for the device";
  }
  EXPECT_EQ(bench.policy->statistics().allocated.current, 0);
  EXPECT_GE(bench.policy->statistics().active.current, (4_MiB).count());
  const Placement other = bench.must_allocate(4_MiB);
  EXPECT_NE(other.address, used.address);
  bench.expect_sound(GetParam());
  bench.streams.complete_all();
  bench.policy->poll();
  EXPECT_EQ(bench.policy->statistics().active.current,
            bench.policy->statistics().allocated.current);
  bench.expect_sound(GetParam());
}

TEST_P(PolicyContract, WaitsForPendingBlocksBeforeItFails) {
  Bench bench{GetParam(), 64_MiB};
  const Placement used = bench.must_allocate(40_MiB);
  bench.policy->record_stream(used.block, StreamId{1});
  bench.policy->deallocate(used.block);
  if (GetParam().name == "cuda-malloc-async") {  // PyTorch takes the driver's no for an answer
    EXPECT_TRUE(std::holds_alternative<OutOfMemory>(bench.policy->allocate({40_MiB, {}})));
    return;
  }
  const Placement after = bench.must_allocate(40_MiB);
  EXPECT_GE(after.size, 40_MiB);
  bench.expect_sound(GetParam());
}

TEST_P(PolicyContract, ReturnsMemoryWhenTheCacheIsEmptied) {
  Bench bench{GetParam()};
  std::vector<Placement> placements;
  for (const Bytes size : {1_KiB, 3_MiB, 24_MiB, 100_MiB}) {
    placements.push_back(bench.must_allocate(size));
  }
  for (const Placement& placement : placements) {
    bench.policy->deallocate(placement.block);
  }
  bench.policy->empty_cache();
  bench.expect_sound(GetParam());
  if (GetParam().name != "rmm-pool" &&
      GetParam().name != "rmm-arena") {  // they keep what they have
    EXPECT_EQ(bench.policy->statistics().reserved.current, 0);
    EXPECT_EQ(bench.device.free_memory(), 1_GiB);
  }
}

TEST_P(PolicyContract, TellsEveryBlockToItsSink) {
  Bench bench{GetParam()};
  Collected sink;
  bench.policy->set_sink(&sink);
  const Placement placement = bench.must_allocate(5_MiB);
  bench.policy->deallocate(placement.block);
  std::map<Action, int> seen;
  for (const AllocatorEvent& event : sink.events) {
    ++seen[event.action];
    if (event.action == Action::alloc || event.action == Action::free_requested ||
        event.action == Action::free_completed) {
      EXPECT_EQ(event.size, 5_MiB);
      EXPECT_EQ(event.address, placement.address);
    }
  }
  EXPECT_EQ(seen[Action::alloc], 1);
  EXPECT_EQ(seen[Action::free_requested], 1);
  EXPECT_EQ(seen[Action::free_completed], 1);
}

TEST_P(PolicyContract, RefusesSettingsThatItDoesNotHave) {
  SimulatedDevice device{testing::test_card(1_GiB)};
  IdleStreams streams;
  const auto made = GetParam().make(device, streams, PolicyOptions{.alloc_conf = "no_such:1"});
  ASSERT_FALSE(made);
  EXPECT_FALSE(made.error().message.empty());
}

/// What a program did, for comparing two runs.
std::vector<AllocatorEvent> events_of(const PolicyEntry& entry, std::uint64_t seed) {
  SimulatedDevice device{testing::test_card(1_GiB)};
  IdleStreams streams;
  auto policy = entry.make(device, streams, {}).value().release();
  const std::unique_ptr<Allocator> owner{policy};
  Collected sink;
  policy->set_sink(&sink);
  std::vector<std::optional<BlockId>> buffers;
  std::int64_t iteration{};
  for (const testing::Step& step : testing::random_program(seed, 2000)) {
    if (step.kind == testing::Step::Kind::allocate) {
      const auto outcome = policy->allocate({Bytes{step.size}, StreamId{step.stream}});
      const auto* placement = std::get_if<Placement>(&outcome);
      buffers.push_back(placement != nullptr ? std::optional{placement->block} : std::nullopt);
    } else if (step.kind == testing::Step::Kind::free && buffers[step.buffer]) {
      policy->deallocate(*buffers[step.buffer]);
    } else if (step.kind == testing::Step::Kind::iteration) {
      policy->begin_iteration(iteration++);
    }
  }
  return sink.events;
}

TEST_P(PolicyContract, DoesTheSameTwice) {
  EXPECT_EQ(events_of(GetParam(), 7), events_of(GetParam(), 7));
}

/// A program's allocations and frees as ops, with an attempt and a mark here and there; frees of
/// buffers that were never allocated among them.
std::vector<Op> ops_of(std::uint64_t seed, std::uint32_t& buffers) {
  std::vector<Op> ops;
  buffers = 0;
  for (const testing::Step& step : testing::random_program(seed, 2000)) {
    if (step.kind == testing::Step::Kind::allocate) {
      ops.push_back(Op{.value = step.size,
                       .id = buffers,
                       .stream = static_cast<std::uint16_t>(step.stream),
                       .kind = OpKind::allocate,
                       .flags = buffers % 50 == 49 ? kAttempt : std::uint8_t{0}});
      ++buffers;
    } else if (step.kind == testing::Step::Kind::free) {
      ops.push_back(Op{.id = static_cast<std::uint32_t>(step.buffer), .kind = OpKind::free});
    } else if (ops.size() % 3 == 0) {
      ops.push_back(Op{.kind = OpKind::mark});
    }
  }
  return ops;
}

/// What came of each op: the blocks of all buffers after it, as far as they changed.
struct Outcome {
  std::vector<BlockId> blocks{};
  std::vector<std::size_t> failures{};
  std::vector<std::int64_t> levels{};
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// Runs `ops`: as many at once as the policy takes, or each by a call of its own.
Outcome outcome_of(const PolicyEntry& entry, const std::vector<Op>& ops, std::uint32_t buffers,
                   bool at_once) {
  SimulatedDevice device{testing::test_card(256_MiB)};
  IdleStreams streams;
  const std::unique_ptr<Allocator> policy = entry.make(device, streams, {}).value();
  Outcome outcome{.blocks = std::vector<BlockId>(buffers, kUnplaced)};
  const std::span<const Op> all{ops};
  for (std::size_t i = 0; i < ops.size(); ++i) {
    // `Allocator::` is what policies without a serve() of their own do.
    const std::span<const Op> rest = at_once ? all.subspan(i) : all.subspan(i, 1);
    const Served served = at_once ? policy->serve(rest, outcome.blocks)
                                  : policy->Allocator::serve(rest, outcome.blocks);
    EXPECT_LE(served.ops, rest.size());
    i += served.ops;
    if (served.failure) {
      outcome.failures.push_back(i);
    } else if (served.ops < rest.size()) {
      // Stopped where it should.
      const Op& op = ops[i];
      EXPECT_TRUE(op.kind == OpKind::mark || (op.flags & kAttempt) != 0 ||
                  (op.kind == OpKind::free && outcome.blocks[op.id] == kUnplaced));
    } else if (!at_once) {
      --i;
    }
  }
  const Statistics& now = policy->statistics();
  for (const Level& level : {now.requested, now.allocated, now.active, now.reserved,
                             now.inactive_split, now.segments, now.allocations}) {
    outcome.levels.insert(outcome.levels.end(), {level.current, level.peak, level.allocated});
  }
  return outcome;
}

TEST_P(PolicyContract, ServesOpsInARowAsOneByOne) {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    std::uint32_t buffers{};
    const std::vector<Op> ops = ops_of(seed, buffers);
    const Outcome one_by_one = outcome_of(GetParam(), ops, buffers, false);
    EXPECT_EQ(outcome_of(GetParam(), ops, buffers, true), one_by_one);
    EXPECT_EQ(one_by_one.failures.empty(), GetParam().name == "swap");  // which has the host too
  }
}

INSTANTIATE_TEST_SUITE_P(Registry, PolicyContract, ::testing::ValuesIn(policies()),
                         [](const ::testing::TestParamInfo<PolicyEntry>& entry) {
                           std::string name{entry.param.name};
                           for (char& letter : name) {
                             letter = letter == '-' ? '_' : letter;
                           }
                           return name;
                         });

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest's
void PrintTo(const PolicyEntry& entry, std::ostream* out) { *out << entry.name; }

}  // namespace peakcast
