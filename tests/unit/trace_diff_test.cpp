#include "sim/trace/trace_diff.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/alignment.hpp"
#include "sim/trace/read_trace.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

using Sequence = std::vector<std::uint64_t>;

/// Pairs must be equal elements and ascend on both sides.
void expect_sound(const Sequence& a, const Sequence& b, const std::vector<AlignedPair>& pairs) {
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    ASSERT_EQ(a.at(pairs[i].a), b.at(pairs[i].b));
    if (i > 0) {
      ASSERT_LT(pairs[i - 1].a, pairs[i].a);
      ASSERT_LT(pairs[i - 1].b, pairs[i].b);
    }
  }
}

/// The longest common subsequence, by the table that everybody can check.
std::size_t longest_common(const Sequence& a, const Sequence& b) {
  std::vector<std::vector<std::size_t>> best(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < b.size(); ++j) {
      best[i + 1][j + 1] = a[i] == b[j] ? best[i][j] + 1 : std::max(best[i][j + 1], best[i + 1][j]);
    }
  }
  return best[a.size()][b.size()];
}

TEST(Align, FindsALongestCommonSubsequenceOfShortSequences) {
  std::uint64_t state = 12345;  // a fixed multiplicative generator: the same sequences every time
  const auto draw = [&](std::uint64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33U) % below;
  };
  for (int round = 0; round < 2000; ++round) {
    Sequence a(draw(24));
    Sequence b(draw(24));
    const std::uint64_t alphabet = 1 + draw(6);
    for (auto* sequence : {&a, &b}) {
      for (std::uint64_t& element : *sequence) {
        element = draw(alphabet);
      }
    }
    const auto pairs = align(a, b);
    expect_sound(a, b, pairs);
    if (a.size() < 16 || b.size() < 16) {
      // Too short for anchors: the alignment is the shortest edit script.
      ASSERT_EQ(pairs.size(), longest_common(a, b)) << "round " << round;
    }
  }
}

TEST(Align, StaysSoundWhenTheEffortIsSpent) {
  Sequence a;
  Sequence b;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    a.push_back(i * i % 17);
    b.push_back(i * i % 19);
  }
  const auto pairs = align(a, b, 4);
  expect_sound(a, b, pairs);
  EXPECT_GT(pairs.size(), 500U);
}

Trace read(const std::string& csv) {
  auto loaded = read_trace_bytes(csv, "t.csv");
  EXPECT_TRUE(loaded);
  return loaded ? std::move(loaded->trace) : Trace{};
}

TEST(TraceDiff, FindsNoDifferenceBetweenATraceAndItself) {
  const auto loaded = read_trace(testing_support::data_file("fuzz_057.csv.zst"));
  ASSERT_TRUE(loaded);
  const TraceDiff diff = diff_of(loaded->trace, loaded->trace);
  EXPECT_TRUE(diff.hunks.empty());
  EXPECT_EQ(diff.matched, diff.ops_a);
  EXPECT_EQ(diff.unmatched_a.buffers + diff.longer_a.buffers, 0);
}

TEST(TraceDiff, TellsWhatADifferenceCostsAtThePeak) {
  // B frees the 1024 before it allocates the 4096, and has a buffer of 2048 of its own:
  // peaks 512 + 1024 + 4096 = 5632 and 512 + 4096 + 2048 = 6656.
  const Trace a = read(
      "alloc,1000,512,0\nalloc,2000,1024,0\nalloc,3000,4096,0\n"
      "free_completed,2000,1024,0\n");
  const Trace b = read(
      "alloc,1000,512,0\nalloc,2000,1024,0\nfree_completed,2000,1024,0\n"
      "alloc,3000,4096,0\nalloc,9000,2048,0\n");
  const TraceDiff diff = diff_of(a, b);
  EXPECT_EQ(diff.peak_a.allocated, Bytes{5632});
  EXPECT_EQ(diff.peak_b.allocated, Bytes{6656});
  EXPECT_EQ(diff.matched + diff.moved, 4);
  EXPECT_EQ(diff.unmatched_b.allocated, Bytes{2048});
  EXPECT_EQ(diff.longer_a.allocated, Bytes{1024});
  // peak_a - peak_b = unmatched_a + longer_a - unmatched_b - longer_b
  EXPECT_EQ(diff.peak_a.allocated - diff.peak_b.allocated,
            diff.unmatched_a.allocated + diff.longer_a.allocated - diff.unmatched_b.allocated -
                diff.longer_b.allocated);
  ASSERT_FALSE(diff.hunks.empty());
  EXPECT_EQ(std::min(diff.hunks[0].a_begin, diff.hunks[0].b_begin), 2U);
}

TEST(TraceDiff, BalancesPeaksOfDifferentRecordings) {
  const auto a = read_trace(testing_support::data_file("fuzz_057.csv.zst"));
  const auto b = read_trace(testing_support::data_file("fuzz_006.csv.zst"));
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  const TraceDiff diff = diff_of(a->trace, b->trace);
  EXPECT_EQ(diff.peak_a.allocated - diff.peak_b.allocated,
            diff.unmatched_a.allocated + diff.longer_a.allocated - diff.unmatched_b.allocated -
                diff.longer_b.allocated);
}

}  // namespace
}  // namespace peakcast
