// Does any random program leave every policy's heap sound, and its books equal to a naive count?
// PEAKCAST_TEST_SEED=n repeats one seed.

#include <cstdlib>
#include <map>
#include <sstream>

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
using testing::Program;
using testing::Step;

/// Runs `program`; the first thing that is wrong, or "". Invariants after every step: the referee's
/// intervals, the heap's tiling and sums, and a naive count of what is live.
std::string fault_of(const PolicyEntry& entry, const Program& program, Bytes card) {
  SimulatedDevice device{testing::test_card(card)};
  HeldStreams streams;
  Referee policy{entry.make(device, streams, {}).value()};
  struct Buffer {
    std::optional<BlockId> block{};
    std::int64_t size{};
    std::int64_t given{};
  };
  std::vector<Buffer> buffers;
  std::int64_t allocated{};
  std::int64_t iteration{};
  const HeapRules rules{.hides_memory = entry.name == "cuda-malloc-async"};
  for (std::size_t i = 0; i < program.size(); ++i) {
    const Step& step = program[i];
    switch (step.kind) {
      case Step::Kind::allocate: {
        const auto outcome = policy.allocate({Bytes{step.size}, StreamId{step.stream}});
        Buffer buffer{.size = step.size};
        if (const auto* placement = std::get_if<Placement>(&outcome)) {
          buffer.block = placement->block;
          buffer.given = placement->size.count();
          allocated += buffer.given;
        }
        buffers.push_back(buffer);
        break;
      }
      case Step::Kind::free:
        if (buffers[step.buffer].block) {
          policy.deallocate(*buffers[step.buffer].block);
          allocated -= buffers[step.buffer].given;
          buffers[step.buffer].block.reset();
        }
        break;
      case Step::Kind::record:
        if (buffers[step.buffer].block) {
          policy.record_stream(*buffers[step.buffer].block, StreamId{step.stream});
        }
        break;
      case Step::Kind::empty_cache:
        policy.empty_cache();
        break;
      case Step::Kind::iteration:
        policy.begin_iteration(iteration++);
        streams.complete_all();
        break;
    }
    std::ostringstream place;
    place << " after step " << i << ", " << step;
    if (policy.fault()) {
      return *policy.fault() + place.str();
    }
    if (policy.statistics().allocated.current != allocated) {
      return "the books and a naive count differ" + place.str();
    }
    if (policy.statistics().reserved.current > card.count()) {
      return "more is reserved than the card has" + place.str();
    }
    const auto checked = check_heap(policy.view(), policy.statistics(), rules);
    if (!checked) {
      return checked.error().message + place.str();
    }
  }
  return {};
}

/// Drops steps as long as the fault stays: what is left is short enough to read.
Program shrunken(const PolicyEntry& entry, Program program, Bytes card) {
  for (std::size_t size = program.size() / 2; size > 0; size /= 2) {
    for (std::size_t from = 0; from + size <= program.size();) {
      // Allocates stay: later steps count them.
      Program shorter;
      for (std::size_t i = 0; i < program.size(); ++i) {
        if (i < from || i >= from + size || program[i].kind == Step::Kind::allocate) {
          shorter.push_back(program[i]);
        }
      }
      if (shorter.size() < program.size() && !fault_of(entry, shorter, card).empty()) {
        program = std::move(shorter);
      } else {
        from += size;
      }
    }
  }
  return program;
}

void run_seed(const PolicyEntry& entry, std::uint64_t seed, Bytes card) {
  const Program program = testing::random_program(seed, 500);
  const std::string fault = fault_of(entry, program, card);
  if (fault.empty()) {
    return;
  }
  std::ostringstream text;
  for (const Step& step : shrunken(entry, program, card)) {
    text << "  " << step << ",\n";
  }
  FAIL() << "PEAKCAST_TEST_SEED=" << seed << ", policy " << entry.name << ", card of "
         << card.count() << " bytes: " << fault << "\nProgram{\n"
         << text.str() << "}";
}

class RandomPrograms : public ::testing::TestWithParam<PolicyEntry> {};

TEST_P(RandomPrograms, LeaveTheHeapSoundOnARoomyCard) {
  const std::uint64_t first = testing::test_seed();
  for (std::uint64_t seed = first; seed < first + 6; ++seed) {
    ASSERT_NO_FATAL_FAILURE(run_seed(GetParam(), seed, 16_GiB));
  }
}

TEST_P(RandomPrograms, LeaveTheHeapSoundOnACardThatRunsFull) {
  const std::uint64_t first = testing::test_seed();
  for (std::uint64_t seed = first; seed < first + 6; ++seed) {
    ASSERT_NO_FATAL_FAILURE(run_seed(GetParam(), seed, 256_MiB));
  }
}

INSTANTIATE_TEST_SUITE_P(Registry, RandomPrograms, ::testing::ValuesIn(policies()),
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
