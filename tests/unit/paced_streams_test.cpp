#include "sim/engine/paced_streams.hpp"

#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace peakcast {
namespace {

Op op(OpKind kind, std::uint8_t flags = 0) {
  return {.value = 512, .id = 0, .stream = 0, .kind = kind, .flags = flags};
}
Op iteration() { return op(OpKind::mark, static_cast<std::uint8_t>(MarkKind::iteration)); }

/// The host is done with the first iteration after 50 us; the next one begins after 200.
Trace two_iterations() {
  Trace trace;
  trace.buffer_slots = 1;
  trace.ops = {iteration(),      op(OpKind::allocate), op(OpKind::free),    op(OpKind::allocate),
               op(OpKind::free), iteration(),          op(OpKind::allocate)};
  trace.times_us = {100, 110, 120, 140, 150, 300, 310};
  return trace;
}

TEST(PacedStreams, SpreadTheCardsWorkOverTheIteration) {
  const Trace trace = two_iterations();
  PacedStreams streams{trace};
  streams.at(2);  // 20 us of 50: it ends 80 us after the mark
  const EventId event = streams.record(StreamId{});
  EXPECT_FALSE(streams.completed(event));
  streams.at(4);
  EXPECT_FALSE(streams.completed(event));
  const EventId last = streams.record(StreamId{});  // where the next iteration begins
  streams.at(5);
  EXPECT_TRUE(streams.completed(event));
  EXPECT_TRUE(streams.completed(last));
}

TEST(PacedStreams, EndWhatTheHostWaitsFor) {
  const Trace trace = two_iterations();
  PacedStreams streams{trace};
  streams.at(3);
  const EventId one = streams.record(StreamId{});
  const EventId other = streams.record(StreamId{});
  streams.wait(one);
  EXPECT_TRUE(streams.completed(one));
  EXPECT_FALSE(streams.completed(other));
  streams.synchronize_device();
  EXPECT_TRUE(streams.completed(other));
}

TEST(PacedStreams, EndAtOnceWhereNothingTellsTimes) {
  Trace trace = two_iterations();
  trace.times_us.clear();
  PacedStreams untold{trace};
  untold.at(2);
  EXPECT_TRUE(untold.completed(untold.record(StreamId{})));
  trace = two_iterations();
  trace.ops[0].flags = static_cast<std::uint8_t>(MarkKind::phase);
  trace.ops[5].flags = trace.ops[0].flags;
  PacedStreams unmarked{trace};
  unmarked.at(2);
  EXPECT_TRUE(unmarked.completed(unmarked.record(StreamId{})));
}

TEST(PacedStreams, BearAbsurdTimes) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  for (const std::vector<std::int64_t>& times :
       {std::vector<std::int64_t>{0, kMost, 0, kMost, kMost, kMost, kMost},
        std::vector<std::int64_t>{-kMost, 0, 1, 2, 3, 4, 5},
        std::vector<std::int64_t>{300, 200, 100, 90, 80, 70, 60}}) {
    Trace trace = two_iterations();
    trace.times_us = times;
    PacedStreams streams{trace};
    for (std::size_t i = 0; i < trace.ops.size(); ++i) {
      streams.at(i);
      const EventId event = streams.record(StreamId{});
      streams.synchronize_device();
      EXPECT_TRUE(streams.completed(event));
      streams.forget(event);
    }
  }
}

}  // namespace
}  // namespace peakcast
