#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "workloads/capture/values_memory.hpp"

namespace peakcast::capture {
namespace {

TEST(KnownMemory, KnowsWhatWasLearntAndNothingElse) {
  KnownMemory memory;
  memory.learn(100, 50);
  EXPECT_TRUE(memory.knows(100, 50));
  EXPECT_TRUE(memory.knows(110, 5));
  EXPECT_FALSE(memory.knows(99, 2));
  EXPECT_FALSE(memory.knows(149, 2));
  EXPECT_EQ(memory.bytes(), 50U);
}

TEST(KnownMemory, NeighboursJoin) {
  KnownMemory memory;
  memory.learn(100, 50);
  memory.learn(200, 50);
  EXPECT_FALSE(memory.knows(100, 150));
  memory.learn(150, 50);
  EXPECT_TRUE(memory.knows(100, 150));
  EXPECT_EQ(memory.bytes(), 150U);
}

TEST(KnownMemory, ForgettingTheMiddleKeepsBothEnds) {
  KnownMemory memory;
  memory.learn(0, 100);
  memory.forget(40, 20);
  EXPECT_TRUE(memory.knows(0, 40));
  EXPECT_TRUE(memory.knows(60, 40));
  EXPECT_FALSE(memory.knows(39, 2));
  EXPECT_EQ(memory.bytes(), 80U);
}

TEST(KnownMemory, AgreesWithABitForEachByte) {
  constexpr std::uint64_t kBytes = 200;
  std::mt19937 draw{20261129};  // the same draws everywhere: no distribution is used
  KnownMemory memory;
  std::vector<bool> bits(kBytes);
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t start = draw() % kBytes;
    const std::uint64_t size = draw() % (kBytes - start + 1);
    const bool learns = draw() % 2 == 0;
    if (learns) {
      memory.learn(start, size);
    } else {
      memory.forget(start, size);
    }
    std::uint64_t known = 0;
    for (std::uint64_t i = 0; i < kBytes; ++i) {
      if (i >= start && i < start + size) {
        bits[i] = learns;
      }
      known += bits[i] ? 1U : 0U;
      ASSERT_EQ(memory.knows(i, 1), bits[i]) << "step " << step << ", byte " << i;
    }
    ASSERT_EQ(memory.bytes(), known) << "step " << step;
  }
}

}  // namespace
}  // namespace peakcast::capture
