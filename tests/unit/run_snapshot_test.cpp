#include "sim/report/run_snapshot.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "sim/trace/pickle.hpp"
#include "sim/trace/pickle_writer.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Address at(std::uint64_t mebibytes) { return Address{mebibytes << 20U}; }

Recording log_of(std::vector<AllocatorEvent> events) {
  Recording log;
  for (std::size_t i = 0; i < events.size(); ++i) {
    log.times_us.push_back(static_cast<std::int64_t>(i));
  }
  log.events = std::move(events);
  return log;
}

/// "alloc 10+2": what, where and how large in MiB, an entry a line.
std::string text_of(const Recording& recording) {
  std::string text;
  for (const AllocatorEvent& event : recording.events) {
    text += fmt::format("{} {}+{}\n", to_string(event.action), event.address.value() >> 20U,
                        event.size.count() >> 20U);
  }
  for (const RecordedSegment& segment : recording.segments) {
    text += fmt::format("[{}+{}", segment.address.value() >> 20U, segment.size.count() >> 20U);
    for (const RecordedBlock& block : segment.blocks) {
      text += fmt::format(" {}{}", block.size.count() >> 20U,
                          block.allocated ? "" : (block.active ? "p" : "f"));
    }
    text += "]\n";
  }
  return text;
}

//  10      14      18
//  |  b  |  free   |      what an allocator with cudaMalloc says already fits
TEST(RunSnapshot, KeepsALogWhoseBlocksLieInSegmentsAndTilesThem) {
  const Recording made = run_snapshot(log_of({{at(10), 8_MiB, {}, Action::segment_alloc},
                                              {at(10), 4_MiB, {}, Action::alloc},
                                              {at(14), 2_MiB, {}, Action::alloc},
                                              {at(14), 2_MiB, {}, Action::free_requested}}),
                                      {})
                             .recording;
  EXPECT_EQ(text_of(made),
            "segment_alloc 10+8\nalloc 10+4\nalloc 14+2\nfree_requested 14+2\n[10+8 4 2p 2f]\n");
}

TEST(RunSnapshot, GivesABlockThatLiesInNoSegmentOneOfItsOwn) {
  const Recording made = run_snapshot(log_of({{at(10), 4_MiB, {}, Action::alloc},
                                              {at(20), 2_MiB, {}, Action::alloc},
                                              {at(10), 4_MiB, {}, Action::free_requested},
                                              {at(10), 4_MiB, {}, Action::free_completed}}),
                                      {})
                             .recording;
  EXPECT_EQ(text_of(made),
            "segment_alloc 10+4\nalloc 10+4\nsegment_alloc 20+2\nalloc 20+2\n"
            "free_requested 10+4\nfree_completed 10+4\nsegment_free 10+4\n[20+2 2]\n");
}

// Memory of two parts goes under a stitched block and comes back: nothing is there twice.
TEST(RunSnapshot, FollowsMemoryThatIsMappedElsewhere) {
  const Recording made = run_snapshot(log_of({{at(10), 2_MiB, {}, Action::segment_map},
                                              {at(20), 2_MiB, {}, Action::segment_map},
                                              {at(10), 2_MiB, {}, Action::segment_unmap},
                                              {at(20), 2_MiB, {}, Action::segment_unmap},
                                              {at(30), 4_MiB, {}, Action::segment_map},
                                              {at(30), 4_MiB, {}, Action::alloc}}),
                                      {})
                             .recording;
  EXPECT_EQ(made.events.size(), 6U);
  ASSERT_EQ(made.segments.size(), 1U);
  EXPECT_EQ(made.segments[0].address, at(30));
  EXPECT_TRUE(made.segments[0].expandable);
}

// The block goes to the host and comes back: on the card it ends and begins again.
TEST(RunSnapshot, ShowsOnlyWhatIsOnTheCard) {
  const Recording made = run_snapshot(log_of({{at(10), 2_MiB, {}, Action::segment_map},
                                              {at(10), 2_MiB, {}, Action::alloc},
                                              {at(10), 2_MiB, {}, Action::segment_unmap},
                                              {at(10), 2_MiB, {}, Action::segment_map},
                                              {at(10), 2_MiB, {}, Action::segment_unmap},
                                              {at(10), 2_MiB, {}, Action::free_requested},
                                              {at(10), 2_MiB, {}, Action::free_completed}}),
                                      {})
                             .recording;
  EXPECT_EQ(text_of(made),
            "segment_map 10+2\nalloc 10+2\nfree_requested 10+2\nfree_completed 10+2\n"
            "segment_unmap 10+2\nsegment_map 10+2\nalloc 10+2\nfree_requested 10+2\n"
            "free_completed 10+2\nsegment_unmap 10+2\n");
  EXPECT_EQ(made.times_us, (std::vector<std::int64_t>{0, 1, 2, 2, 2, 3, 3, 4, 4, 4}));
}

// A small pool with cudaMalloc beside a large one that maps: the viewer would merge and not find
// it.
TEST(RunSnapshot, SaysAllOfALogInOneWay) {
  const Recording made = run_snapshot(log_of({{at(10), 2_MiB, {}, Action::segment_alloc},
                                              {at(12), 2_MiB, {}, Action::segment_map},
                                              {at(10), 2_MiB, {}, Action::segment_free}}),
                                      {})
                             .recording;
  EXPECT_EQ(text_of(made), "segment_map 10+2\nsegment_map 12+2\nsegment_unmap 10+2\n[12+2 2f]\n");
}

TEST(RunSnapshot, TakesBlockSizesWhereTheyAreKnown) {
  const RunSnapshot made = run_snapshot(
      log_of({{at(10), 8_MiB, {}, Action::segment_alloc}, {at(10), 5_MiB, {}, Action::alloc}}),
      std::vector<Bytes>{{}, 6_MiB});
  EXPECT_EQ(text_of(made.recording), "segment_alloc 10+8\nalloc 10+5\n[10+8 6 2f]\n");
  EXPECT_EQ(made.recording.segments[0].blocks[0].requested, 5_MiB);
  EXPECT_EQ(made.source, (std::vector<std::uint32_t>{0, 1}));
}

/// The viewer hands what one APPENDS holds to one call.
TEST(PickleWriter, AppendsAThousandItemsAtATime) {
  PickleWriter out;
  out.begin_list();
  for (int i = 0; i < 2500; ++i) {
    out.boolean(true);
  }
  out.end_list();
  const std::string bytes = out.take();
  int in_a_row = 0;
  int batches = 0;
  for (const char byte : bytes) {
    constexpr char kAppends = 'e';
    constexpr char kNewTrue = '\x88';
    if (byte == kNewTrue) {
      ++in_a_row;
    } else if (byte == kAppends) {
      EXPECT_LE(in_a_row, 1000);
      in_a_row = 0;
      ++batches;
    }
  }
  EXPECT_EQ(batches, 3);
  const auto read = read_pickle(bytes, "p", Bytes{1 << 28});
  ASSERT_TRUE(read);
  EXPECT_EQ(read.value().list(read.value().root).size(), 2500U);
}

}  // namespace
}  // namespace peakcast
