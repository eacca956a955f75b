#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"

namespace peakcast {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

Op allocate(std::uint32_t buffer, std::int64_t size, std::uint16_t stream = 0) {
  return {.value = size, .id = buffer, .stream = stream, .kind = OpKind::allocate};
}
Op free_of(std::uint32_t buffer) { return {.id = buffer, .kind = OpKind::free}; }
Op launch(std::int64_t ns, std::uint16_t stream = 0) {
  return {.value = ns, .stream = stream, .kind = OpKind::launch};
}
Op uses(std::uint32_t buffer, std::uint16_t stream) {
  return {.id = buffer, .stream = stream, .kind = OpKind::record_stream};
}
Op host_work(std::int64_t ns) { return {.value = ns, .kind = OpKind::host_work}; }
Op iteration() {
  return {.kind = OpKind::mark, .flags = static_cast<std::uint8_t>(MarkKind::iteration)};
}
Op synchronize() { return {.kind = OpKind::synchronize, .flags = kAllStreams}; }

struct Result {
  ReplayReport report;
  std::string timeline;
};
Result run(const std::vector<Op>& ops) {
  Trace trace;
  trace.ops = ops;
  trace.streams = {0, 1};
  trace.buffer_slots = 8;
  trace.event_slots = 4;
  TimedStreams streams{{.streams = 2}};
  SimulatedDevice device{{.spec = {.name = "test",
                                   .total = Bytes{1024 * kMiB},
                                   .granularity = Bytes{2 * kMiB},
                                   .compute_major = 9,
                                   .compute_minor = 0},
                          .streams = &streams}};
  const auto allocator = std::move(make_policy("pytorch", device, streams, {})).value();
  std::ostringstream out;
  TimelineWriter timeline{out, "test"};
  const TimedReplay timing{.streams = &streams, .timeline = &timeline};
  ReplayReport report = replay(trace, *allocator, device, {.timing = &timing});
  timeline.finish();
  return {std::move(report), out.str()};
}

// The side stream reads the buffer for 1 ms after the host dropped it.
//   early: the next request comes at once, must not reuse it    -> 2 x 32 MiB reserved
//   late: the host first works for 2 ms, the event has completed -> the same 32 MiB
TEST(TimedReplay, ARecordedBlockComesBackWhenItsStreamGetsThere) {
  const auto held_for = [](std::int64_t pause_ns) {
    return run({allocate(0, 32 * kMiB), launch(1'000'000, 1), uses(0, 1), free_of(0),
                host_work(pause_ns), allocate(1, 32 * kMiB), synchronize()})
        .report.statistics.reserved.peak;
  };
  EXPECT_EQ(held_for(0), 64 * kMiB);
  EXPECT_EQ(held_for(2'000'000), 32 * kMiB);
}

TEST(TimedReplay, IterationsTakeTheTimeOfWhatBoundsThem) {
  // First the device: 5 ms of kernels against 1 ms of host work. Then the host: 3 ms against 1 ms.
  const Result result = run({iteration(), host_work(1'000'000), launch(5'000'000), synchronize(),
                             iteration(), launch(1'000'000), host_work(3'000'000), synchronize()});
  ASSERT_EQ(result.report.iterations.size(), 2U);
  EXPECT_EQ(result.report.iterations[0].duration, SimDuration{6'000'000});
  EXPECT_EQ(result.report.iterations[0].split.compute, SimDuration{5'000'000});
  EXPECT_EQ(result.report.iterations[0].split.host, SimDuration{1'000'000});
  EXPECT_EQ(result.report.iterations[1].duration, SimDuration{3'000'000});
  EXPECT_EQ(result.report.iterations[1].split.host, SimDuration{2'000'000});
}

TEST(TimedReplay, DriverCallsTakeHostTime) {
  const Result result = run({iteration(), allocate(0, 64 * kMiB), synchronize()});
  EXPECT_GE(result.report.iterations.at(0).split.allocator, SimDuration{50'000});
  EXPECT_EQ(result.report.duration, result.report.split.total());
}

TEST(TimedReplay, TheTimelineIsJsonWithTracksSlicesAndCounters) {
  const Result result =
      run({iteration(), allocate(0, 4 * kMiB), launch(1'500), launch(2'000, 1), free_of(0)});
  const nlohmann::json json = nlohmann::json::parse(result.timeline);
  int kernels = 0;
  int samples = 0;
  for (const auto& event : json.at("traceEvents")) {
    kernels += event.at("ph") == "X" && event.at("cat") == "kernel" ? 1 : 0;
    if (event.at("ph") == "C") {
      ++samples;
      EXPECT_EQ(event.at("args").at("reserved_bytes"), 20 * kMiB);
    }
  }
  EXPECT_EQ(kernels, 2);
  EXPECT_EQ(samples, 2);
  EXPECT_EQ(result.timeline,
            run({iteration(), allocate(0, 4 * kMiB), launch(1'500), launch(2'000, 1), free_of(0)})
                .timeline);
}

}  // namespace
}  // namespace peakcast
