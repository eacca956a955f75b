// Random programs through the policy and the naive reference: after every step the same blocks, the
// same events and the same figures, and a sound heap.
// PEAKCAST_TEST_SEED=N runs the one program of that seed.

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/duel.hpp"

namespace peakcast {
namespace {

using support::Duel;
using support::DuelSetup;
using support::Operation;
using Kind = Operation::Kind;

constexpr std::size_t kSteps = 400;

/// The empty string, or how to see the failure again.
std::string outcome_of(std::uint64_t seed) {
  const support::RandomProgram program = support::random_program(seed, kSteps);
  const auto trouble = support::run(program.setup, program.steps);
  if (!trouble) {
    return "";
  }
  const std::vector<Operation> fewer = support::shrink(program.setup, program.steps);
  std::ostringstream out;
  out << "PEAKCAST_TEST_SEED=" << seed << ": " << *trouble << "\n"
      << program.setup << "\n"
      << support::as_code(fewer) << "which says: " << *support::run(program.setup, fewer);
  return out.str();
}

class PytorchAgainstNaive : public testing::TestWithParam<int> {};

TEST_P(PytorchAgainstNaive, AgreesAfterEveryStepOfRandomPrograms) {
  if (const auto seed = support::given_seed()) {
    if (GetParam() == 0) {
      EXPECT_EQ(outcome_of(*seed), "");
    }
    return;
  }
  constexpr std::uint64_t kPrograms = 40;
  for (std::uint64_t i = 0; i < kPrograms; ++i) {
    const std::uint64_t seed = static_cast<std::uint64_t>(GetParam()) * kPrograms + i;
    ASSERT_EQ(outcome_of(seed), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, PytorchAgainstNaive, testing::Range(0, 8));

TEST(RandomPrograms, ReachOutOfMemoryAndKeepBlocksAlive) {
  std::int64_t ooms = 0;
  std::size_t most = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const support::RandomProgram program = support::random_program(seed, kSteps);
    Duel duel{program.setup};
    for (const Operation& step : program.steps) {
      ASSERT_EQ(duel.step(step), std::nullopt);
      most = std::max(most, duel.live());
    }
    ooms += duel.ooms();
  }
  EXPECT_GT(ooms, 20);
  EXPECT_GT(most, 20U);
}

TEST(RandomPrograms, PrintAsCodeThatCanBePasted) {
  EXPECT_EQ(support::as_code(std::vector<Operation>{{Kind::allocate, 1048576, 2}, {Kind::free, 3}}),
            "    {Kind::allocate, 1048576, 2},\n    {Kind::free, 3, 0},\n");
}

}  // namespace
}  // namespace peakcast
