#include "sim/engine/timed_streams.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace peakcast {
namespace {

using ns = SimDuration;
constexpr StreamId kCompute{0};
constexpr StreamId kSide{1};

TimedStreams two_streams(std::int64_t launch_ns = 0, std::int64_t depth = 1024) {
  return TimedStreams{{.streams = 2, .launch_cost = ns{launch_ns}, .queue_depth = depth}};
}
std::int64_t at(const TimedStreams& streams) {
  return streams.host_now().time_since_epoch().count();
}

TEST(TimedStreams, TheHostRunsAheadUntilItWaits) {
  TimedStreams streams = two_streams(10);
  streams.launch(kCompute, WorkKind::kernel, ns{100});  // issued at 10, runs 10..110
  streams.launch(kCompute, WorkKind::kernel, ns{100});  // issued at 20, runs 110..210
  EXPECT_EQ(at(streams), 20);
  const EventId end = streams.record(kCompute);
  EXPECT_FALSE(streams.completed(end));
  streams.wait(end);
  EXPECT_EQ(at(streams), 210);
  EXPECT_TRUE(streams.completed(end));
}

TEST(TimedStreams, AnEventCompletesWhenTheWorkBeforeItEndsAndNotLater) {
  TimedStreams streams = two_streams();
  streams.launch(kCompute, WorkKind::kernel, ns{100});
  const EventId first = streams.record(kCompute);
  streams.launch(kCompute, WorkKind::kernel, ns{100});
  const EventId second = streams.record(kCompute);
  streams.spend(ns{99}, HostActivity::program);
  EXPECT_FALSE(streams.completed(first));
  streams.spend(ns{1}, HostActivity::program);
  EXPECT_TRUE(streams.completed(first));
  EXPECT_FALSE(streams.completed(second));
}

TEST(TimedStreams, AnEventOnAnIdleStreamIsCompleteAtOnce) {
  TimedStreams streams = two_streams();
  EXPECT_TRUE(streams.completed(streams.record(kSide)));
}

TEST(TimedStreams, AStreamWaitsForAnotherWithoutHoldingTheHost) {
  TimedStreams streams = two_streams();
  streams.launch(kSide, WorkKind::collective, ns{300});  // 0..300
  const EventId gathered = streams.record(kSide);
  streams.wait_event(kCompute, gathered);
  streams.launch(kCompute, WorkKind::kernel, ns{50});  // 300..350
  EXPECT_EQ(at(streams), 0);
  streams.synchronize(kCompute);
  EXPECT_EQ(at(streams), 350);
}

TEST(TimedStreams, CollectivesRunBesideKernelsAndKernelsTakeTurns) {
  TimedStreams streams = two_streams();
  streams.launch(kCompute, WorkKind::kernel, ns{100});   // 0..100
  streams.launch(kSide, WorkKind::collective, ns{150});  // 0..150
  streams.launch(kSide, WorkKind::kernel, ns{40});       // 150..: the units are busy until 200
  streams.launch(kCompute, WorkKind::kernel, ns{100});   // 100..200
  streams.synchronize(kSide);
  EXPECT_EQ(at(streams), 240);
  EXPECT_EQ(streams.split().compute, ns{240});
  EXPECT_EQ(streams.collective_time(), ns{150});
  EXPECT_EQ(streams.split().communication, ns{0});
}

TEST(TimedStreams, TheSplitNamesExposedCommunicationAllocatorAndHostAndAddsUp) {
  TimedStreams streams = two_streams(5);
  streams.spend(ns{20}, HostActivity::program);         // idle: host 20
  streams.launch(kCompute, WorkKind::kernel, ns{30});   // +5 idle; runs 25..55
  streams.spend(ns{50}, HostActivity::allocator);       // until 75: 30 compute, 20 allocator
  streams.launch(kSide, WorkKind::collective, ns{40});  // +5 host; runs 80..120
  streams.synchronize_device();
  EXPECT_EQ(at(streams), 120);
  EXPECT_EQ(streams.split().compute, ns{30});
  EXPECT_EQ(streams.split().communication, ns{40});
  EXPECT_EQ(streams.split().allocator, ns{20});
  EXPECT_EQ(streams.split().host, ns{30});
  EXPECT_EQ(streams.split().total(), ns{120});
}

TEST(TimedStreams, AFullQueueBlocksTheHostUntilThereIsRoom) {
  TimedStreams streams = two_streams(0, 2);
  for (int launch = 0; launch < 2; ++launch) {
    streams.launch(kCompute, WorkKind::kernel, ns{100});
  }
  EXPECT_EQ(at(streams), 0);
  streams.launch(kCompute, WorkKind::kernel, ns{100});
  EXPECT_EQ(at(streams), 100);
}

TEST(TimedStreams, AForgottenEventStillHoldsTheStreamThatWaitsForIt) {
  TimedStreams streams = two_streams();
  streams.launch(kSide, WorkKind::collective, ns{100});
  const EventId event = streams.record(kSide);
  streams.wait_event(kCompute, event);
  streams.forget(event);
  const EventId other = streams.record(kSide);  // must not reuse the slot
  streams.launch(kCompute, WorkKind::kernel, ns{10});
  streams.synchronize(kCompute);
  EXPECT_EQ(at(streams), 110);
  EXPECT_TRUE(streams.completed(other));
}

struct Work {
  std::uint32_t label;
  std::int64_t begin, end;
  friend bool operator==(const Work&, const Work&) = default;
};
class Recorder final : public WorkSink {
 public:
  void on_work(StreamId, WorkKind, SimTime begin, SimTime end, std::uint32_t label) override {
    works.push_back({label, begin.time_since_epoch().count(), end.time_since_epoch().count()});
  }
  std::vector<Work> works;
};

TEST(TimedStreams, ASinkHearsOfWorkInTheOrderOfItsEnd) {
  TimedStreams streams = two_streams();
  Recorder recorder;
  streams.set_sink(&recorder);
  streams.launch(kCompute, WorkKind::kernel, ns{100}, 1);
  streams.launch(kSide, WorkKind::collective, ns{60}, 2);
  streams.launch(kCompute, WorkKind::kernel, ns{5}, 3);
  streams.drain();
  EXPECT_EQ(recorder.works, (std::vector<Work>{{2, 0, 60}, {1, 0, 100}, {3, 100, 105}}));
}

}  // namespace
}  // namespace peakcast
