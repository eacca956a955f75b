// The worked examples and the conformance checklist of the project's allocator specification
// (sections 24 and 25), for the policy and for the naive reference that other tests trust.

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

#include "tests/support/pytorch_bench.hpp"

namespace peakcast {
namespace {

using namespace literals;
using support::BenchSetup;

template <class A>
class WorkedExample : public testing::Test {
 public:
  using Bench = support::PytorchBench<A>;
};

struct SubjectNames {
  template <class T>
  // NOLINTNEXTLINE(readability-identifier-naming): GoogleTest's
  static std::string GetName(int /*index*/) {
    return std::is_same_v<T, pytorch::CachingAllocator> ? "Policy" : "Naive";
  }
};
using Subjects = testing::Types<pytorch::CachingAllocator, support::NaiveAllocator>;
TYPED_TEST_SUITE(WorkedExample, Subjects, SubjectNames);

// 25.1
TYPED_TEST(WorkedExample, SmallPoolFillsTwoMebibyteSegmentsAndSplitsExactly) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 1_B);
  bench.alloc("b", 513_B);
  bench.alloc("c", 1_MiB);
  bench.alloc("d", 1_MiB);  // does not fit 1,047,040: opens S1
  EXPECT_EQ(bench.heap(),
            "S0: [512 A 1][1024 A 513][1M A][1047040 -]\n"
            "S1: [1M A][1M -]");
  // 512 + 1024 + 2 x 2^20; requested 1 + 513 + 2 x 2^20.
  EXPECT_EQ(bench.books(), "AB 2098688 RB 4M ISB 2095616 IS 2 SEG 2");
  EXPECT_EQ(bench.stat("requested_bytes.all.current"), 2'097'666);

  bench.free("b");
  bench.free("a");
  EXPECT_EQ(bench.heap(), "S0: [1536 -][1M A][1047040 -]\nS1: [1M A][1M -]");
  EXPECT_EQ(bench.books(), "AB 2M RB 4M ISB 2M IS 3 SEG 2");

  bench.alloc("e", 600_B);  // best fit 1536; the rest of 512 is split off
  EXPECT_EQ(bench.heap(), "S0: [1024 A 600][512 -][1M A][1047040 -]\nS1: [1M A][1M -]");
  EXPECT_EQ(bench.books(), "AB 2098176 RB 4M ISB 2096128 IS 3 SEG 2");

  bench.alloc("f", 512_B);  // fits exactly
  EXPECT_EQ(bench.heap(), "S0: [1024 A 600][512 A][1M A][1047040 -]\nS1: [1M A][1M -]");
  EXPECT_EQ(bench.books(), "AB 2098688 RB 4M ISB 2095616 IS 2 SEG 2");

  bench.free_all("c", "d", "e", "f");
  EXPECT_EQ(bench.heap(), "S0: [2M -]\nS1: [2M -]");
  EXPECT_EQ(bench.books(), "AB 0 RB 4M ISB 0 IS 0 SEG 2");

  bench.empty_cache();
  EXPECT_EQ(bench.heap(), "");
  EXPECT_EQ(bench.books(), "AB 0 RB 0 ISB 0 IS 0 SEG 0");
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 1);
  EXPECT_EQ(bench.stat("num_device_free"), 2);
}

// 25.2
TYPED_TEST(WorkedExample, LargePoolSharesSegmentsOfTwentyMebibytes) {
  typename TestFixture::Bench bench;
  bench.alloc("A", 1_MiB + 1_B);  // rounds to 1,049,088
  EXPECT_EQ(bench.heap(), "S0: [1049088 A 1048577][19922432 -]");
  EXPECT_EQ(bench.books(), "AB 1049088 RB 20M ISB 19922432 IS 1 SEG 1");
  bench.alloc("B", 10_MiB);
  EXPECT_EQ(bench.heap(), "S0: [1049088 A 1048577][10M A][9436672 -]");
  EXPECT_EQ(bench.books(), "AB 11534848 RB 20M ISB 9436672 IS 1 SEG 1");
  bench.alloc("C", 9_MiB);  // 9,436,672 is 512 too small
  EXPECT_EQ(bench.heap(),
            "S0: [1049088 A 1048577][10M A][9436672 -]\n"
            "S1: [9M A][11M -]");
  EXPECT_EQ(bench.books(), "AB 20972032 RB 40M ISB 20971008 IS 2 SEG 2");
  bench.free("B");
  EXPECT_EQ(bench.heap(), "S0: [1049088 A 1048577][19922432 -]\nS1: [9M A][11M -]");
  EXPECT_EQ(bench.books(), "AB 10486272 RB 40M ISB 31456768 IS 2 SEG 2");
  bench.alloc("D", 9_MiB);  // best fit is the 11M in S1
  EXPECT_EQ(bench.heap(), "S0: [1049088 A 1048577][19922432 -]\nS1: [9M A][9M A][2M -]");
  EXPECT_EQ(bench.books(), "AB 19923456 RB 40M ISB 22019584 IS 2 SEG 2");
  bench.free("D");
  bench.free("A");
  EXPECT_EQ(bench.heap(), "S0: [20M -]\nS1: [9M A][11M -]");
  EXPECT_EQ(bench.books(), "AB 9M RB 40M ISB 11M IS 1 SEG 2");
  bench.empty_cache();
  EXPECT_EQ(bench.heap(), "S1: [9M A][11M -]");
  EXPECT_EQ(bench.books(), "AB 9M RB 20M ISB 11M IS 1 SEG 1");
  bench.free("C");
  bench.empty_cache();
  EXPECT_EQ(bench.heap(), "");
  EXPECT_EQ(bench.books(), "AB 0 RB 0 ISB 0 IS 0 SEG 0");
}

// 25.3
TYPED_TEST(WorkedExample, RequestsFromTenMebibytesGetTheirOwnSegment) {
  typename TestFixture::Bench bench;
  bench.alloc("19.5M", Bytes{20'447'232});
  EXPECT_EQ(bench.books(), "AB 20M RB 20M ISB 0 IS 0 SEG 1");
  EXPECT_EQ(bench.stat("requested_bytes.all.current"), 20'447'232);
  bench.alloc("10.5M", Bytes{11'010'048});
  bench.alloc("11M", 11_MiB);
  bench.alloc("10M", 10_MiB);
  bench.alloc("10M-512", 10_MiB - 512_B);
  bench.alloc("1G+1", 1_GiB + 1_B);
  EXPECT_EQ(bench.heap(),
            "S0: [20M A 19.5M]\n"      // half a MiB is not split off
            "S1: [10.5M A][1.5M -]\n"  // more than 1M is
            "S2: [12M A 11M]\n"        // exactly 1M is not
            "S3: [10M A]\n"
            "S4: [10485248 A][10486272 -]\n"              // below 10M: a shared segment of 20M
            "S5: [1073742336 A 1073741825][2096640 -]");  // 1026M
}

TYPED_TEST(WorkedExample, ARemainderOfMoreThanOneMebibyteIsSplitOffAndTiesGoToTheLowestAddress) {
  typename TestFixture::Bench bench;
  bench.alloc("a", Bytes{20'447'232});
  bench.alloc("b", Bytes{11'010'048});
  bench.alloc("c", 11_MiB);
  bench.free_all("a", "b", "c");
  EXPECT_EQ(bench.heap(), "S0: [20M -]\nS1: [12M -]\nS2: [12M -]");
  EXPECT_EQ(bench.alloc("d", 12_MiB), "S1");
  EXPECT_EQ(bench.alloc("e", Bytes{19'817'984}), "S0");
  EXPECT_EQ(bench.heap(), "S0: [19817984 A][1153536 -]\nS1: [12M A]\nS2: [12M -]");
}

TYPED_TEST(WorkedExample, ARemainderOfExactlyOneMebibyteStays) {
  typename TestFixture::Bench bench;
  bench.alloc("whole", 20_MiB);
  bench.free("whole");
  bench.alloc("a", 19_MiB);
  EXPECT_EQ(bench.heap(), "S0: [20M A 19M]");
  bench.free("a");
  bench.alloc("b", 19_MiB - 512_B);
  EXPECT_EQ(bench.heap(), "S0: [19922432 A][1049088 -]");
}

// 25.4
TYPED_TEST(WorkedExample, BestFitBreaksTiesByAddressAndKeepsStreamsApart) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 12_MiB);
  bench.alloc("b", 14_MiB);
  bench.alloc("c", 12_MiB);
  bench.alloc("d", 16_MiB);
  bench.free_all("a", "b", "c", "d");
  EXPECT_EQ(bench.alloc("e", 11_MiB), "S0");  // remainder 1M, unsplit
  EXPECT_EQ(bench.alloc("f", Bytes{12'058'624}), "S2");
  EXPECT_EQ(bench.alloc("g", 12_MiB), "S1");
  EXPECT_EQ(bench.alloc("h", 12_MiB, 1), "S4");  // though 16M are free on stream 0
  EXPECT_EQ(bench.heap(),
            "S0: [12M A 11M]\nS1: [12M A][2M -]\nS2: [12M A 11.5M]\nS3: [16M -]\nS4: [12M A]");
  EXPECT_EQ(bench.books(), "AB 48M RB 66M ISB 2M IS 1 SEG 5");
}

// 25.5
TYPED_TEST(WorkedExample, AFailedAllocationReleasesWhatIsCachedAndTriesOnceMore) {
  typename TestFixture::Bench bench{BenchSetup{.total = 64_MiB}};
  bench.alloc("a", 20_MiB);
  bench.alloc("b", 30_MiB);
  bench.free("a");
  static_cast<void>(bench.events());
  bench.alloc("c", 24_MiB);
  EXPECT_EQ(bench.events(), "segment_free S0 20M; segment_alloc S2 24M; alloc S2 24M");
  EXPECT_EQ(bench.books(), "AB 54M RB 54M ISB 0 IS 0 SEG 2");
  EXPECT_EQ(bench.stat("num_alloc_retries"), 1);
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 1);
  EXPECT_EQ(bench.stat("num_device_alloc"), 3);
  EXPECT_EQ(bench.stat("num_device_free"), 1);

  const OutOfMemory oom = bench.alloc_fails(16_MiB);  // 54 + 16 > 64, nothing to release
  EXPECT_EQ(bench.events(), "oom 16M (10M free)");
  EXPECT_EQ(oom.attempted, 16_MiB);
  EXPECT_EQ(bench.stat("num_alloc_retries"), 2);
  EXPECT_EQ(bench.stat("num_ooms"), 1);
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 2);
}

// 25.6
TYPED_TEST(WorkedExample, FragmentationFailsARequestThatTheFreeBytesCouldHold) {
  typename TestFixture::Bench bench{BenchSetup{.total = 40_MiB}};
  for (int i = 0; i < 8; ++i) {
    bench.alloc(std::to_string(i), 5_MiB);
  }
  bench.free_all("0", "2", "4", "6");
  EXPECT_EQ(bench.heap(), "S0: [5M -][5M A][5M -][5M A]\nS1: [5M -][5M A][5M -][5M A]");
  EXPECT_EQ(bench.books(), "AB 20M RB 40M ISB 20M IS 4 SEG 2");
  static_cast<void>(bench.events());
  const OutOfMemory oom = bench.alloc_fails(6_MiB);
  EXPECT_EQ(bench.events(), "oom 6M (0 free)");
  EXPECT_EQ(oom.attempted, 20_MiB);
  EXPECT_EQ(oom.largest_free_block, 5_MiB);
  EXPECT_EQ(bench.stat("num_alloc_retries"), 1);
  EXPECT_EQ(bench.stat("num_ooms"), 1);
}

// 25.7
TYPED_TEST(WorkedExample, MaxSplitSizeKeepsOversizeBlocksForOversizeRequests) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "max_split_size_mb:32"}};
  bench.alloc("a", 40_MiB);
  bench.free("a");
  EXPECT_EQ(bench.stat("oversize_segments.current"), 1);

  bench.alloc("b", 31_MiB);  // 40M is oversize, the request is not
  EXPECT_EQ(bench.heap(), "S0: [40M -]\nS1: [32M A 31M]");
  EXPECT_EQ(bench.stat("oversize_allocations.current"), 1);  // the block of 32M
  EXPECT_EQ(bench.stat("oversize_segments.current"), 2);

  bench.alloc("c", 32_MiB);  // oversize; 40M < 32M + 20M: taken whole
  EXPECT_EQ(bench.heap(), "S0: [40M A 32M]\nS1: [32M A 31M]");
  bench.free("c");

  bench.alloc("d", 20_MiB);
  bench.alloc("e", 60_MiB);
  bench.free("e");
  EXPECT_EQ(bench.heap(), "S0: [40M -]\nS1: [32M A 31M]\nS2: [20M A]\nS3: [60M -]");
  EXPECT_EQ(bench.alloc("f", 33_MiB), "S0");  // the smallest that is big enough

  // Slack: 60M >= size + 20M is refused, one step of 512 less is taken.
  EXPECT_EQ(bench.alloc("g", 40_MiB + 512_B), "S3");
  bench.free("g");
  EXPECT_EQ(bench.alloc("h", 40_MiB), "S4");
}

TYPED_TEST(WorkedExample, SelectiveReleaseGivesBackTheLargestUntilTheSumIsEnough) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "max_split_size_mb:32", .total = 128_MiB}};
  bench.alloc("a", 40_MiB);
  bench.alloc("b", 50_MiB);
  bench.alloc("c", 10_MiB);
  bench.free_all("a", "b", "c");
  static_cast<void>(bench.events());
  bench.alloc("d", 64_MiB);  // 100 + 64 > 128; no block of 64M; 50M + 40M = 90M
  EXPECT_EQ(bench.events(),
            "segment_free S1 50M; segment_free S0 40M; segment_alloc S3 64M; alloc S3 64M");
  EXPECT_EQ(bench.heap(), "S2: [10M -]\nS3: [64M A]");
  EXPECT_EQ(bench.stat("num_alloc_retries"), 0);
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 0);
}

TYPED_TEST(WorkedExample, SelectiveReleasePrefersTheSmallestSingleBlockThatIsEnough) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "max_split_size_mb:32", .total = 128_MiB}};
  bench.alloc("a", 40_MiB);
  bench.alloc("b", 50_MiB);
  bench.alloc("c", 10_MiB);
  bench.free_all("a", "b");
  static_cast<void>(bench.events());
  bench.alloc("d", 30_MiB);  // key 32M
  EXPECT_EQ(bench.events(), "segment_free S0 40M; segment_alloc S3 30M; alloc S3 30M");
}

TYPED_TEST(WorkedExample, SelectiveReleaseThatIsNotEnoughKeepsWhatItReleasedReleased) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "max_split_size_mb:32", .total = 128_MiB}};
  bench.alloc("a", 40_MiB);
  bench.alloc("b", 50_MiB);
  bench.free("a");
  static_cast<void>(bench.events());
  // Key 100M: 40M go and do not suffice; the full release finds nothing more.
  static_cast<void>(bench.alloc_fails(100_MiB));
  EXPECT_EQ(bench.events(), "segment_free S0 40M; oom 100M (78M free)");
  EXPECT_EQ(bench.stat("num_alloc_retries"), 1);
  EXPECT_EQ(bench.heap(), "S1: [50M A]");
}

TYPED_TEST(WorkedExample, SelectiveReleaseReachesRequestsBeyondAnyCard) {
  // The key is 2 TiB: every oversize block of the stream goes, from the largest down, in vain. The
  // full release that follows would have taken the smallest first.
  typename TestFixture::Bench bench{BenchSetup{.conf = "max_split_size_mb:32", .total = 128_MiB}};
  bench.alloc("a", 40_MiB);
  bench.alloc("b", 50_MiB);
  bench.free_all("a", "b");
  static_cast<void>(bench.events());
  static_cast<void>(bench.alloc_fails(2048_GiB));
  EXPECT_EQ(bench.events(), "segment_free S1 50M; segment_free S0 40M; oom 2097152M (128M free)");
}

// 25.8
TYPED_TEST(WorkedExample, GarbageCollectionReleasesWhatIsOlderThanTheMeanAge) {
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "garbage_collection_threshold:0.5", .limit = 256_MiB, .total = 1_GiB}};
  bench.alloc("a", 40_MiB);
  bench.alloc("b", 50_MiB);
  bench.free_all("a", "b");
  bench.alloc("c", 30_MiB);
  for (int i = 0; i < 3; ++i) {
    bench.alloc("d", 48_MiB);
    bench.free("d");
  }
  EXPECT_EQ(bench.heap(), "S0: [30M A][10M -]\nS1: [50M -]");
  bench.alloc("e", 60_MiB);  // 90M <= 128M: no collection
  EXPECT_EQ(bench.heap(), "S0: [30M A][10M -]\nS1: [50M -]\nS2: [60M A]");
  static_cast<void>(bench.events());
  bench.alloc("f", 70_MiB);  // 150M > 128M; only the 50M block is whole; its age is the mean
  EXPECT_EQ(bench.events(), "segment_free S1 50M; segment_alloc S3 70M; alloc S3 70M");
  EXPECT_EQ(bench.stat("reserved_bytes.all.current"), (170_MiB).count());
}

TYPED_TEST(WorkedExample, GarbageCollectionFinishesItsPassAndSparesTheSmallPool) {
  // Limit 100M, threshold 50M. Three whole free blocks of 20M of equal age, and a small segment.
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "garbage_collection_threshold:0.5", .limit = 100_MiB, .total = 1_GiB}};
  bench.alloc("s", 1_MiB);
  bench.alloc("a", 20_MiB);
  bench.alloc("b", 20_MiB);
  bench.alloc("c", 20_MiB);
  bench.free_all("s", "a", "b", "c");
  static_cast<void>(bench.events());
  // Held 62M, target 12M: one block would do, but the pass goes on. Ages 1: cut 1.
  bench.alloc("d", 30_MiB);
  EXPECT_EQ(bench.events(),
            "segment_free S1 20M; segment_free S2 20M; segment_free S3 20M; segment_alloc S4 30M; "
            "alloc S4 30M");
  EXPECT_EQ(bench.heap(), "S0: [2M -]\nS4: [30M A]");
}

// 25.9
TYPED_TEST(WorkedExample, ABlockThatAnotherStreamUsesIsPendingUntilAMallocSeesItsEventEnd) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 2_MiB);
  bench.record_stream("a", 5);
  static_cast<void>(bench.events());
  bench.free("a");
  EXPECT_EQ(bench.events(), "free_requested S0 2M");
  EXPECT_EQ(bench.heap(), "S0: [2M P][18M -]");
  EXPECT_EQ(bench.stat("allocated_bytes.all.current"), 0);
  EXPECT_EQ(bench.stat("active_bytes.all.current"), (2_MiB).count());
  EXPECT_EQ(bench.stat("requested_bytes.all.current"), (2_MiB).count());

  EXPECT_EQ(bench.alloc("b", 2_MiB), "S0+2M");
  EXPECT_EQ(bench.heap(), "S0: [2M P][2M A][16M -]");
  bench.streams().complete(StreamId{5}, 1);
  EXPECT_EQ(bench.heap(), "S0: [2M P][2M A][16M -]");  // nobody looked yet
  static_cast<void>(bench.events());
  bench.alloc("c", 2_MiB);
  EXPECT_EQ(bench.events(), "free_completed S0 2M; alloc S0 2M");
  EXPECT_EQ(bench.heap(), "S0: [2M A][2M A][16M -]");
  EXPECT_EQ(bench.streams().outstanding(), 0);
}

TYPED_TEST(WorkedExample, ARecordOfTheBlocksOwnStreamIsIgnoredAndOfOneStreamCountsOnce) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 2_MiB, 1);
  bench.record_stream("a", 1);
  bench.free("a");
  EXPECT_EQ(bench.heap(), "S0: [20M -]");
  bench.alloc("b", 2_MiB, 1);
  bench.record_stream("b", 2);
  bench.record_stream("b", 2);
  bench.record_stream("b", 3);
  bench.free("b");
  EXPECT_EQ(bench.streams().outstanding(), 2);
  bench.streams().complete(StreamId{2}, 1);
  bench.allocator().poll();
  EXPECT_EQ(bench.heap(), "S0: [2M P][18M -]");
  bench.streams().complete(StreamId{3}, 1);
  bench.allocator().poll();
  EXPECT_EQ(bench.heap(), "S0: [20M -]");
}

TYPED_TEST(WorkedExample, TheQueueOfAStreamStopsAtItsFirstUnfinishedEvent) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 2_MiB);
  bench.alloc("b", 2_MiB);
  bench.record_stream("a", 1);
  bench.record_stream("a", 2);
  bench.record_stream("b", 1);
  bench.free_all("a", "b");
  bench.streams().complete(StreamId{1}, 1);  // a's event on stream 1; b's stands behind it
  bench.allocator().poll();
  EXPECT_EQ(bench.heap(), "S0: [2M P][2M P][16M -]");
  bench.streams().complete(StreamId{1}, 1);
  bench.allocator().poll();
  EXPECT_EQ(bench.heap(), "S0: [2M P][18M -]");
}

TYPED_TEST(WorkedExample, EmptyCacheWaitsForPendingBlocks) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 2_MiB);
  bench.record_stream("a", 1);
  bench.free("a");
  static_cast<void>(bench.events());
  bench.empty_cache();
  EXPECT_EQ(bench.events(), "free_completed S0 2M; segment_free S0 20M");
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 1);
}

TYPED_TEST(WorkedExample, WhatBecomesFreeInTheLastResortIsNotLookedAtAgain) {
  // A: [2M P][18M A] in 20M of a card of 20M. The retry waits for the 2M; it lies in a split
  // segment, cannot be returned, and would fit, but nobody looks.
  typename TestFixture::Bench bench{BenchSetup{.total = 20_MiB}};
  bench.alloc("a", 2_MiB);
  bench.alloc("b", 9_MiB);
  bench.alloc("c", 9_MiB);
  bench.record_stream("a", 1);
  bench.free("a");
  static_cast<void>(bench.events());
  static_cast<void>(bench.alloc_fails(2_MiB));
  EXPECT_EQ(bench.events(), "free_completed S0 2M; oom 2M (0 free)");
  EXPECT_EQ(bench.alloc("d", 2_MiB), "S0");
}

// 25.10
TYPED_TEST(WorkedExample, ExpandableSegmentsGrowPageByPageAndFillTheirHolesFirst) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "expandable_segments:True"}};
  bench.alloc("w", 100_B);  // R0: the small pool's reservation
  EXPECT_EQ(bench.events(), "segment_map R0 2M; alloc R0 100");
  bench.alloc("a", 30_MiB);  // R1: the large pool's
  EXPECT_EQ(bench.events(), "segment_map R1 40M; alloc R1 30M");
  EXPECT_EQ(bench.heap(), "R0: [512 A 100][2096640 -]\nR1: [30M A][10M -]");
  EXPECT_EQ(bench.books(), "AB 31457792 RB 42M ISB 0 IS 0 SEG 0");
  bench.alloc("b", 15_MiB);  // 10M free and one page more
  EXPECT_EQ(bench.events(), "segment_map R1+40M 20M; alloc R1+30M 15M");
  bench.alloc("c", 3_MiB);
  EXPECT_EQ(bench.events(), "alloc R1+45M 3M");
  bench.free("a");
  EXPECT_EQ(bench.heap(), "R0: [512 A 100][2096640 -]\nR1: [30M -][15M A][3M A][12M -]");
  static_cast<void>(bench.events());
  bench.alloc("d", 40_MiB);  // the tail's 12M and two pages
  EXPECT_EQ(bench.events(), "segment_map R1+60M 40M; alloc R1+48M 40M");
  EXPECT_EQ(bench.stat("reserved_bytes.all.current"), (102_MiB).count());
  bench.free("b");
  EXPECT_EQ(bench.heap(), "R0: [512 A 100][2096640 -]\nR1: [45M -][3M A][40M A][12M -]");
  static_cast<void>(bench.events());

  bench.empty_cache();  // whole pages go: two in front; the tail's 12M cover none
  EXPECT_EQ(bench.events(), "segment_unmap R1 40M");
  EXPECT_EQ(bench.heap(), "R0: [512 A 100][2096640 -]\nR1+40M: [5M -][3M A][40M A][12M -]");
  EXPECT_EQ(bench.stat("reserved_bytes.all.current"), (62_MiB).count());

  bench.alloc("e", 25_MiB);  // the hole first: maps two pages, merges with the 5M
  EXPECT_EQ(bench.events(), "segment_map R1 40M; alloc R1 25M");
  EXPECT_EQ(bench.heap(), "R0: [512 A 100][2096640 -]\nR1: [25M A][20M -][3M A][40M A][12M -]");
  EXPECT_EQ(bench.books(), "AB 71303680 RB 102M ISB 0 IS 0 SEG 0");

  bench.free_all("w", "c", "d", "e");
  static_cast<void>(bench.events());
  bench.empty_cache();
  EXPECT_EQ(bench.events(), "segment_unmap R1 100M; segment_unmap R0 2M");
  EXPECT_EQ(bench.heap(), "");
  EXPECT_EQ(bench.stat("num_device_alloc"), 5);
  EXPECT_EQ(bench.stat("num_device_free"), 3);
  EXPECT_EQ(bench.device().counts().unreserve, 2);  // both reservations are gone
}

TYPED_TEST(WorkedExample, AMappingThatTheCardCannotGiveWhollyGivesNothing) {
  // 50M of card, pages of 20M: three pages cannot be had, two were made and go back.
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "expandable_segments:True", .total = 50_MiB}};
  static_cast<void>(bench.alloc_fails(42_MiB));
  EXPECT_EQ(bench.events(), "oom 42M (50M free)");
  EXPECT_EQ(bench.heap(), "");
  bench.alloc("a", 40_MiB);
  EXPECT_EQ(bench.heap(), "R0: [40M A]");
}

TYPED_TEST(WorkedExample, ExpandableBlocksArePassedOverOnceTheFeatureIsOff) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "expandable_segments:True"}};
  bench.alloc("a", 30_MiB);
  bench.free("a");
  bench.configure("");
  EXPECT_EQ(bench.alloc("b", 30_MiB), "S0");
  bench.configure("expandable_segments:True");
  // Back on: the lookup takes the expandable 40M (its room is counted, but nothing else fits).
  EXPECT_EQ(bench.alloc("c", 30_MiB), "R0");
}

TYPED_TEST(WorkedExample, TheSplitRuleOfExpandableSegmentsHoldsForOrdinaryBlocksToo) {
  typename TestFixture::Bench bench;
  bench.alloc("a", 12_MiB);
  bench.free("a");
  bench.configure("expandable_segments:True");
  bench.alloc("b", 12_MiB - 512_B);
  EXPECT_EQ(bench.heap(), "S0: [12582400 A][512 -]");
}

// 25.12
TYPED_TEST(WorkedExample, TheLimitIsComparedWithTheSegmentSizeEvenWherePagesAreMapped) {
  // Limit 50M, pages of 20M.
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "expandable_segments:True", .limit = 50_MiB, .total = 100_MiB}};
  bench.alloc("a", 25_MiB);  // 0 + 26 <= 50: maps 40M
  bench.alloc("b", 5_MiB);
  EXPECT_EQ(bench.heap(), "R0: [25M A][5M A][10M -]");
  static_cast<void>(bench.events());
  const OutOfMemory oom = bench.alloc_fails(11_MiB);  // 40 + 12 > 50
  EXPECT_EQ(oom.attempted, 12_MiB);
  EXPECT_EQ(bench.events(), "oom 11M (60M free)");
}

TYPED_TEST(WorkedExample, TheLimitMayBeReachedExactly) {
  typename TestFixture::Bench bench{BenchSetup{.limit = 40_MiB}};
  bench.alloc("a", 5_MiB);  // its segment of 20M counts, not its 5M
  bench.alloc("b", 20_MiB);
  EXPECT_EQ(bench.books(), "AB 25M RB 40M ISB 15M IS 1 SEG 2");
  EXPECT_EQ(bench.alloc("c", 15_MiB), "S0+5M");
  const OutOfMemory oom = bench.alloc_fails(512_B);
  EXPECT_EQ(oom.attempted, 2_MiB);
}

// 25.13
TYPED_TEST(WorkedExample, WorkspacesOfCublasTakeTheirOwnSegments) {
  typename TestFixture::Bench bench;
  bench.alloc("H100", Bytes{33'554'432});
  bench.alloc("Lt", 1_MiB);
  bench.alloc("8.x", Bytes{8'519'680});
  EXPECT_EQ(bench.heap(), "S0: [32M A]\nS1: [1M A][1M -]\nS2: [8519680 A][12451840 -]");
}

// 25.14
TYPED_TEST(WorkedExample, AUserPoolKeepsItsMemoryUntilItDies) {
  typename TestFixture::Bench bench;
  auto& allocator = bench.allocator();
  const auto pool = allocator.create_pool({});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.alloc("a", 1_MiB);
  allocator.end_allocate_to_pool(pool);
  bench.alloc("b", 1_MiB);  // the pool's free half is not considered
  EXPECT_EQ(bench.heap(), "S0: [1M A][1M -]\nS1: [1M A][1M -]");
  EXPECT_EQ(bench.books(), "AB 2M RB 4M ISB 2M IS 2 SEG 2");
  bench.free("a");
  bench.empty_cache();  // S1 is split, the pool lives
  EXPECT_EQ(bench.heap(), "S0: [2M -]\nS1: [1M A][1M -]");
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 1);
  allocator.destroy_pool(pool);
  EXPECT_EQ(bench.heap(), "S1: [1M A][1M -]");
  EXPECT_EQ(bench.books(), "AB 1M RB 2M ISB 1M IS 1 SEG 1");
  EXPECT_EQ(bench.stat("num_device_free"), 1);
  EXPECT_EQ(bench.stat("num_sync_all_streams"), 2);
}

// 13.2 and 22
TYPED_TEST(WorkedExample, NestedPoolsAreSearchedFromTheNewestInNewReleasesFromTheOldestInOld) {
  for (const auto& [version, place] : {std::pair{"2.7", "S0+1M"}, std::pair{"2.8", "S1+1M"}}) {
    typename TestFixture::Bench bench{BenchSetup{.version = version}};
    auto& allocator = bench.allocator();
    const auto all = [](StreamId) { return true; };
    const auto outer = allocator.create_pool({});
    const auto inner = allocator.create_pool({});
    allocator.begin_allocate_to_pool(outer, all);
    bench.alloc("a", 1_MiB);  // S0 in the outer pool
    allocator.end_allocate_to_pool(outer);
    allocator.begin_allocate_to_pool(inner, all);
    bench.alloc("b", 1_MiB);  // S1 in the inner pool
    allocator.end_allocate_to_pool(inner);
    allocator.begin_allocate_to_pool(outer, all);
    allocator.begin_allocate_to_pool(inner, all);
    EXPECT_EQ(bench.alloc("c", 1_MiB), place) << version;
  }
}

// 13.3
TYPED_TEST(WorkedExample, WhileAPoolIsAllocatedToNothingIsPolledDeferredOrReleasedInFull) {
  typename TestFixture::Bench bench{BenchSetup{.total = 64_MiB}};
  auto& allocator = bench.allocator();
  bench.alloc("a", 2_MiB);
  bench.alloc("cached", 30_MiB);
  bench.free("cached");
  const auto pool = allocator.create_pool({});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.record_stream("a", 1);
  bench.free("a");  // deferred: no event is recorded
  EXPECT_EQ(bench.streams().outstanding(), 0);
  static_cast<void>(bench.alloc_fails(40_MiB));  // the cached 30M stay
  EXPECT_EQ(bench.stat("num_alloc_retries"), 0);
  bench.empty_cache();
  EXPECT_EQ(bench.heap(), "S0: [2M P][18M -]\nS1: [30M -]");
  allocator.end_allocate_to_pool(pool);
  // Flushed outside: the use was made under the pool and is dropped, so the block is free.
  bench.allocator().poll();
  EXPECT_EQ(bench.streams().outstanding(), 0);
  EXPECT_EQ(bench.heap(), "S0: [20M -]\nS1: [30M -]");
}

TYPED_TEST(WorkedExample, AUseFromBeforeAPoolHoldsTheBlockUnlessItIsMadeAgainUnderThePool) {
  typename TestFixture::Bench bench;
  auto& allocator = bench.allocator();
  bench.alloc("a", 2_MiB);
  bench.alloc("b", 2_MiB);
  bench.record_stream("a", 1);
  bench.record_stream("b", 1);
  const auto pool = allocator.create_pool({});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return false; });
  bench.record_stream("b", 1);
  bench.free_all("a", "b");
  allocator.end_allocate_to_pool(pool);
  allocator.poll();
  EXPECT_EQ(bench.streams().outstanding(), 1);
  EXPECT_EQ(bench.heap(), "S0: [2M P][18M -]");
}

// 13.5
TYPED_TEST(WorkedExample, APoolThatHelpsOutLendsItsFreeMemoryBeforeAnythingIsReleased) {
  for (const std::string_view version : {"2.7", "2.8"}) {
    typename TestFixture::Bench bench{BenchSetup{.total = 40_MiB, .version = version}};
    auto& allocator = bench.allocator();
    const auto pool = allocator.create_pool({.use_on_oom = true});
    allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
    bench.alloc("p", 30_MiB);
    allocator.end_allocate_to_pool(pool);
    bench.free("p");
    if (version == "2.7") {
      static_cast<void>(bench.alloc_fails(20_MiB));
    } else {
      EXPECT_EQ(bench.alloc("a", 20_MiB), "S0");
      EXPECT_EQ(bench.heap(), "S0: [20M A][10M -]");
      EXPECT_EQ(bench.stat("num_alloc_retries"), 0);
    }
  }
}

TYPED_TEST(WorkedExample, ABorrowedBlockIsSplitByTheRuleOfOrdinarySegments) {
  // Expandable segments are on, but handling of them is off in the pool that helps out: the rest
  // of 1M is not split off.
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "expandable_segments:True", .total = 40_MiB}};
  auto& allocator = bench.allocator();
  support::NamedAddresses addresses{1};
  SimulatedDevice own{
      {.spec = {.name = "own", .total = 1_GiB, .granularity = 2_MiB}, .addresses = &addresses}};
  const auto pool = allocator.create_pool({.use_on_oom = true, .device = &own});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.alloc("p", 42_MiB);
  allocator.end_allocate_to_pool(pool);
  bench.free("p");
  static_cast<void>(bench.events());
  bench.alloc("a", 41_MiB);
  EXPECT_EQ(bench.heap(), "S256: [42M A 41M]");
}

TYPED_TEST(WorkedExample, APoolWithoutSplitsServesOneTensorPerSegment) {
  typename TestFixture::Bench bench;
  auto& allocator = bench.allocator();
  const auto pool = allocator.create_pool({.no_split = true});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.alloc("a", 512_B);
  bench.alloc("b", 3_MiB);
  EXPECT_EQ(bench.heap(), "S0: [2M A 512]\nS1: [20M A 3M]");
}

TYPED_TEST(WorkedExample, APoolWithItsOwnAllocatorTakesAndGivesBackThereAndNeverExpands) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "expandable_segments:True"}};
  auto& allocator = bench.allocator();
  support::NamedAddresses addresses{1};
  SimulatedDevice own{
      {.spec = {.name = "own", .total = 1_GiB, .granularity = 2_MiB}, .addresses = &addresses}};
  const auto pool = allocator.create_pool({.device = &own});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.alloc("a", 30_MiB);
  allocator.end_allocate_to_pool(pool);
  EXPECT_EQ(own.counts().acquire, 1);
  bench.free("a");
  allocator.destroy_pool(pool);
  EXPECT_EQ(own.counts().release, 1);
  EXPECT_EQ(bench.heap(), "");
}

// 24, checklist: rounding and pools
TYPED_TEST(WorkedExample, RoundsToStepsOf512AndTellsThePoolsApartByTheRoundedSize) {
  typename TestFixture::Bench bench;
  bench.alloc("511", 511_B);
  bench.alloc("512", 512_B);
  bench.alloc("513", 513_B);
  EXPECT_EQ(bench.heap(), "S0: [512 A 511][512 A][1024 A 513][2095104 -]");
  bench.alloc("1M", 1_MiB);
  EXPECT_EQ(bench.heap(), "S0: [512 A 511][512 A][1024 A 513][1M A][1046528 -]");
  bench.alloc("1M+1", 1_MiB + 1_B);
  EXPECT_EQ(bench.stat("segment.large_pool.current"), 1);
  EXPECT_EQ(bench.stat("segment.small_pool.current"), 1);
}

TYPED_TEST(WorkedExample, MergesLeftRightAndBoth) {
  typename TestFixture::Bench bench;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    bench.alloc(name, 4_MiB);
  }
  bench.free("a");
  bench.free("b");  // left
  EXPECT_EQ(bench.heap(), "S0: [8M -][4M A][4M A][4M A]");
  bench.free("e");
  bench.free("d");  // right
  EXPECT_EQ(bench.heap(), "S0: [8M -][4M A][8M -]");
  EXPECT_EQ(bench.stat("inactive_split.all.current"), 2);
  bench.free("c");  // both
  EXPECT_EQ(bench.heap(), "S0: [20M -]");
  EXPECT_EQ(bench.stat("inactive_split.all.current"), 0);
}

TYPED_TEST(WorkedExample, TheFullReleaseTakesTheLargePoolFirst) {
  typename TestFixture::Bench bench;
  bench.alloc("small", 1_B);
  bench.alloc("large", 12_MiB);
  bench.free_all("small", "large");
  static_cast<void>(bench.events());
  bench.empty_cache();
  EXPECT_EQ(bench.events(), "segment_free S1 12M; segment_free S0 2M");
}

TYPED_TEST(WorkedExample, ARequestOfAnExbibyteIsRefusedWithoutATrace) {
  typename TestFixture::Bench bench;
  static_cast<void>(bench.alloc_fails(Bytes{std::int64_t{1} << 60}));
  EXPECT_EQ(bench.events(), "");
  EXPECT_EQ(bench.stat("num_ooms"), 0);
  static_cast<void>(bench.alloc_fails(Bytes{(std::int64_t{1} << 60) - 1}));
  EXPECT_EQ(bench.stat("num_ooms"), 1);
}

// 25.11
TYPED_TEST(WorkedExample, RoundsToDivisionsOfThePowersOfTwo) {
  struct Row {
    std::int64_t request;
    std::int64_t by_2, by_4, by_8, by_16;
  };
  const auto rounded = [](std::string_view conf, std::int64_t request) {
    typename TestFixture::Bench bench{BenchSetup{.conf = conf, .total = 8_MiB}};
    // A request that no card of 8 MiB can hold is an oom that tells its rounded size; one that
    // fits is the block.
    const AllocOutcome outcome = bench.allocator().allocate({.size = Bytes{request}, .stream = {}});
    if (const auto* oom = std::get_if<OutOfMemory>(&outcome)) {
      return oom->rounded.count();
    }
    return std::get<Placement>(outcome).size.count();
  };
  for (const Row& row :
       {Row{1200, 1536, 1536, 1536, 1536}, Row{2049, 3072, 2560, 2560, 2560},
        Row{5000, 6144, 5120, 5120, 5120}, Row{600000, 786432, 655360, 655360, 622592},
        Row{1048577, 1572864, 1310720, 1179648, 1114112},
        Row{3145733, 4194304, 3670016, 3407872, 3276800},
        Row{1073741824, 1073741824, 1073741824, 1073741824, 1073741824},
        Row{1073741825, 1610612736, 1342177280, 1207959552, 1140850688}}) {
    EXPECT_EQ(rounded("roundup_power2_divisions:2", row.request), row.by_2);
    EXPECT_EQ(rounded("roundup_power2_divisions:4", row.request), row.by_4);
    EXPECT_EQ(rounded("roundup_power2_divisions:8", row.request), row.by_8);
    EXPECT_EQ(rounded("roundup_power2_divisions:16", row.request), row.by_16);
  }
}

TYPED_TEST(WorkedExample, AListOfDivisionsIsOpenFromTheLastIntervalOrFromTheNext) {
  const auto rounded = [](std::string_view version, std::int64_t mebibytes) {
    typename TestFixture::Bench bench{
        BenchSetup{.conf = "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
                   .total = 2_MiB,
                   .version = version}};
    return bench.alloc_fails(Bytes{(mebibytes << 20) + 1}).rounded;
  };
  EXPECT_EQ(rounded("2.11", 100), Bytes{104'858'112});
  EXPECT_EQ(rounded("2.11", 300), Bytes{314'573'312});
  EXPECT_EQ(rounded("2.11", 600), 768_MiB);
  EXPECT_EQ(rounded("2.11", 1100), 1280_MiB);
  EXPECT_EQ(rounded("2.11", 1300), 1536_MiB);
  EXPECT_EQ(rounded("2.11", 2100), 2304_MiB);
  EXPECT_EQ(rounded("2.6", 600), 768_MiB);
  EXPECT_EQ(rounded("2.6", 1100), 1152_MiB);
  EXPECT_EQ(rounded("2.6", 1300), 1408_MiB);
}

TYPED_TEST(WorkedExample, TheLargeSegmentSizeIsASetting) {
  typename TestFixture::Bench bench{BenchSetup{.conf = "large_segment_size_mb:64"}};
  bench.alloc("a", 5_MiB);
  EXPECT_EQ(bench.heap(), "S0: [5M A][59M -]");
  bench.empty_cache();
  typename TestFixture::Bench pages{
      BenchSetup{.conf = "expandable_segments:True,large_segment_size_mb:64"}};
  pages.alloc("a", 5_MiB);
  EXPECT_EQ(pages.heap(), "R0: [5M A][59M -]");
}

TYPED_TEST(WorkedExample, TheSlackOfOversizeBlocksIsASetting) {
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "max_split_size_mb:32,max_non_split_rounding_mb:30"}};
  bench.alloc("a", 70_MiB);
  bench.free("a");
  EXPECT_EQ(bench.alloc("b", 40_MiB), "S1");  // 70 >= 40 + 30
  EXPECT_EQ(bench.alloc("c", 41_MiB), "S0");  // 70 < 41 + 30
}

TYPED_TEST(WorkedExample, AMemoryFractionIsALimit) {
  typename TestFixture::Bench bench{
      BenchSetup{.conf = "per_process_memory_fraction:0.5", .total = 80_MiB}};
  bench.alloc("a", 40_MiB);
  static_cast<void>(bench.alloc_fails(512_B));
}

}  // namespace
}  // namespace peakcast
