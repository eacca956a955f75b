#include "allocators/packing.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "tests/support/random_program.hpp"

namespace peakcast {
namespace {

std::vector<Lifetime> random_lifetimes(std::uint64_t seed, int count) {
  testing::Draws draws{seed};
  std::vector<Lifetime> lifetimes;
  for (int i = 0; i < count; ++i) {
    const auto lower = static_cast<std::int64_t>(draws.below(200));
    const auto length = static_cast<std::int64_t>(1 + draws.below(60));
    lifetimes.push_back(
        {lower, lower + length, Bytes{static_cast<std::int64_t>(1 + draws.below(99))}});
  }
  return lifetimes;
}

//  size
//   3   |     [ b ]
//   2   [  a  ]          a and b meet at time 2 only: 2 + 3 = 5
//       0  1  2  3
TEST(Packing, StacksWhatLivesTogether) {
  const std::vector<Lifetime> lifetimes{{0, 3, Bytes{2}}, {2, 4, Bytes{3}}};
  const Packing packing = pack(lifetimes);
  EXPECT_EQ(packing.floor, Bytes{5});
  EXPECT_EQ(packing.capacity, Bytes{5});
  EXPECT_TRUE(packing.proved);
  EXPECT_TRUE(sound(lifetimes, packing.offsets));
}

TEST(Packing, ReusesWhatHasEnded) {
  const std::vector<Lifetime> lifetimes{{0, 2, Bytes{7}}, {2, 4, Bytes{7}}};
  EXPECT_EQ(pack(lifetimes).capacity, Bytes{7});  // half-open: the end is free again
}

TEST(Packing, OfNothingIsNothing) {
  EXPECT_EQ(pack({}).capacity, Bytes{});
  EXPECT_EQ(largest_live_sum({}), Bytes{});
}

TEST(Packing, NestedLivesNeedTheirFloorOnly) {
  std::vector<Lifetime> lifetimes;  // a forward pass and its backward pass
  for (std::int64_t i = 0; i < 500; ++i) {
    lifetimes.push_back({i, 1000 - i, Bytes{1 + i % 17}});
  }
  const Packing packing = pack(lifetimes, {.search_steps = 0});
  EXPECT_EQ(packing.capacity, packing.floor);
}

TEST(Packing, IsSoundAndNotBelowTheFloorForRandomLives) {
  const std::uint64_t first = testing::test_seed();
  for (std::uint64_t seed = first; seed < first + 20; ++seed) {
    const auto lifetimes = random_lifetimes(seed, 120);
    const Packing packing = pack(lifetimes, {.search_steps = 20'000'000});
    EXPECT_TRUE(sound(lifetimes, packing.offsets)) << "PEAKCAST_TEST_SEED=" << seed;
    EXPECT_GE(packing.capacity, packing.floor);
    EXPECT_EQ(packing.floor, largest_live_sum(lifetimes));
  }
}

TEST(Packing, OfManyLivesIsSoundToo) {
  const auto lifetimes = random_lifetimes(1, 12'000);  // in layers
  const Packing packing = pack(lifetimes, {.heuristic_steps = 5'000'000});
  EXPECT_TRUE(sound(lifetimes, packing.offsets));
}

TEST(Packing, DoesTheSameTwice) {
  const auto lifetimes = random_lifetimes(3, 200);
  EXPECT_EQ(pack(lifetimes, {.search_steps = 20'000'000}).offsets,
            pack(lifetimes, {.search_steps = 20'000'000}).offsets);
}

TEST(Packing, TheRefereeSeesAnOverlap) {
  const std::vector<Lifetime> lifetimes{{0, 3, Bytes{2}}, {2, 4, Bytes{3}}};
  EXPECT_FALSE(sound(lifetimes, std::vector<Bytes>{Bytes{0}, Bytes{1}}));
  EXPECT_FALSE(sound(lifetimes, std::vector<Bytes>{Bytes{-1}, Bytes{2}}));
  EXPECT_TRUE(sound(lifetimes, std::vector<Bytes>{Bytes{3}, Bytes{0}}));
}

/// google/minimalloc's instances, where they lie beside the repository. The quick ones; all eleven
/// reach their published capacity with the default budget (allocators/STUDY.md has the figures).
TEST(Packing, ReachesPublishedCapacities) {
  const char* given = std::getenv("PEAKCAST_BENCHMARKS");  // NOLINT(concurrency-mt-unsafe)
  const std::filesystem::path folder =
      std::filesystem::path{given != nullptr ? given : PEAKCAST_BENCHMARKS_DEFAULT} / "minimalloc";
  if (!std::filesystem::exists(folder)) {
    GTEST_SKIP() << "no benchmarks at " << folder;
  }
  for (const char letter : std::string{"CKI"}) {
    std::ifstream file{folder / (std::string{letter} + ".1048576.csv")};
    std::string line;
    std::getline(file, line);
    std::vector<Lifetime> lifetimes;
    while (std::getline(file, line)) {
      std::istringstream cells{line};
      std::string id;
      char comma{};
      std::int64_t size{};
      Lifetime life;
      std::getline(cells, id, ',');
      cells >> life.lower >> comma >> life.upper >> comma >> size;
      life.size = Bytes{size};
      lifetimes.push_back(life);
    }
    const Packing packing = pack(lifetimes, {.search_steps = 2'000'000'000});
    EXPECT_LE(packing.capacity, Bytes{1048576}) << letter;
    EXPECT_TRUE(sound(lifetimes, packing.offsets)) << letter;
  }
}

}  // namespace
}  // namespace peakcast
