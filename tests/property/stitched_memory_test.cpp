// Stitching maps one memory at several addresses, where the referee, who looks at addresses, is
// blind. Do two blocks ever share memory, is every block mapped for as long as it lives, and does
// what is mapped stay bounded?

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/peakcast/allocator.hpp"
#include "allocators/registry.hpp"
#include "sim/device/held_streams.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/physical_memory.hpp"
#include "tests/support/random_program.hpp"
#include "tests/support/test_card.hpp"

namespace peakcast {
namespace {

using namespace literals;
using testing::Program;
using testing::Step;

struct Buffer {
  std::optional<BlockId> block{};
  Address address{};
  Bytes size{};
};

/// Runs `program` under `spec`; the first thing that is wrong, or "".
std::string fault_of(const char* spec, const Program& program, Bytes card) {
  SimulatedDevice simulated{testing::test_card(card)};
  testing::PhysicalMemory device{simulated};
  testing::PhysicalBlocks blocks{device};
  HeldStreams streams;
  const std::unique_ptr<Allocator> policy = make_policy(spec, device, streams, {}).value();
  std::vector<Buffer> buffers;
  for (std::size_t i = 0; i < program.size(); ++i) {
    const Step& step = program[i];
    std::string fault;
    if (step.kind == Step::Kind::allocate) {
      const AllocOutcome outcome = policy->allocate({Bytes{step.size}, StreamId{step.stream}});
      Buffer buffer;
      if (const auto* placement = std::get_if<Placement>(&outcome)) {
        buffer = {placement->block, placement->address, placement->size};
        fault =
            blocks.enter(static_cast<std::uint32_t>(buffers.size()), buffer.address, buffer.size);
      }
      buffers.push_back(buffer);
    } else if (step.kind == Step::Kind::free && buffers[step.buffer].block) {
      blocks.leave(step.buffer);
      policy->deallocate(*buffers[step.buffer].block);
      buffers[step.buffer].block.reset();
    } else if (step.kind == Step::Kind::empty_cache) {
      policy->empty_cache();
      for (const Buffer& buffer : buffers) {
        if (buffer.block && !device.behind(buffer.address, buffer.size)) {
          fault = "memory went from under a block";
        }
      }
    } else if (step.kind == Step::Kind::iteration) {
      streams.complete_all();
    }
    if (!fault.empty()) {
      return fault + " after step " + std::to_string(i);
    }
  }
  return {};
}

TEST(StitchedMemory, NeverBelongsToTwoBlocks) {
  const std::uint64_t first = testing::test_seed();
  for (std::uint64_t seed = first; seed < first + 12; ++seed) {
    for (const char* spec : {"peakcast", "peakcast+fast"}) {
      for (const Bytes card : {192_MiB, 16_GiB}) {
        EXPECT_EQ(fault_of(spec, testing::random_program(seed, 1500), card), "")
            << spec << ", PEAKCAST_TEST_SEED=" << seed << ", card of " << card.count();
      }
    }
  }
}

TEST(StitchedMemory, StaysBoundedOverTenThousandIterationsOfChangingShapes) {
  SimulatedDevice simulated{testing::test_card(16_GiB)};
  testing::PhysicalMemory device{simulated};
  HeldStreams streams;
  near_floor::NearFloorAllocator policy{device, streams, near_floor::kTight, std::nullopt};
  testing::Draws draws{testing::test_seed()};
  // Weights that stay, and a forward and backward pass over a length that is never the same: each
  // layer keeps two activations and lets go of a temporary between them.
  std::vector<BlockId> weights;
  const auto must = [&](std::int64_t size) {
    return std::get<Placement>(policy.allocate({Bytes{size}, {}})).block;
  };
  for (int layer = 0; layer < 12; ++layer) {
    weights.push_back(must(12'000'000));
  }
  std::size_t most = 0;
  std::int64_t held_early = 0;
  for (int iteration = 0; iteration < 10'000; ++iteration) {
    const auto length = static_cast<std::int64_t>(64 + draws.below(1985));
    std::vector<BlockId> kept;
    for (int layer = 0; layer < 12; ++layer) {
      kept.push_back(must(length * 6'144));
      const BlockId scores = must(length * 24'576 + 512);
      kept.push_back(must(length * 3'072));
      policy.deallocate(scores);
    }
    for (; !kept.empty(); kept.pop_back()) {
      const BlockId gradient = must(length * 6'144);
      policy.deallocate(kept.back());
      policy.deallocate(gradient);
    }
    most = std::max(most, device.mappings());
    held_early = iteration == 999 ? policy.statistics().reserved.peak : held_early;
  }
  // Beyond the handles' own mappings: the bound, and what one more stitch adds to it.
  EXPECT_LT(most, 20'000U);
  // Nothing creeps: what a thousand iterations needed is enough for ten thousand, or nearly.
  EXPECT_LT(policy.statistics().reserved.peak, held_early + held_early / 50);
}

}  // namespace
}  // namespace peakcast
