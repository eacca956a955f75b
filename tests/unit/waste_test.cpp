#include "sim/engine/waste.hpp"

#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "tests/support/test_card.hpp"

namespace peakcast {
namespace {

using namespace literals;

Op allocate(std::uint32_t buffer, Bytes size, std::uint16_t stream = 0) {
  return {.value = size.count(), .id = buffer, .stream = stream, .kind = OpKind::allocate};
}
Op free_of(std::uint32_t buffer) { return {.id = buffer, .kind = OpKind::free}; }
Op uses(std::uint32_t buffer, std::uint16_t stream) {
  return {.id = buffer, .stream = stream, .kind = OpKind::record_stream};
}
Op iteration() {
  return {.kind = OpKind::mark, .flags = static_cast<std::uint8_t>(MarkKind::iteration)};
}
Op phase(std::uint32_t name) {
  return {.id = name, .kind = OpKind::mark, .flags = static_cast<std::uint8_t>(MarkKind::phase)};
}

/// Events never complete: what another stream used stays held.
class BusyStreams final : public Streams {
 public:
  [[nodiscard]] EventId record(StreamId /*stream*/) override { return EventId{next_++}; }
  [[nodiscard]] bool completed(EventId /*event*/) override { return false; }
  void forget(EventId /*event*/) override {}
  void wait(EventId /*event*/) override {}
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}

 private:
  std::uint32_t next_{};
};

Waste explain(const std::vector<Op>& ops, const std::string& policy = "pytorch") {
  Trace trace;
  trace.ops = ops;
  trace.streams = {0, 1};
  trace.buffer_slots = 8;
  trace.strings = {"forward", "backward"};
  const Expected<Waste> waste = explain_waste(trace, [&](const auto& watch) -> Expected<Ok> {
    SimulatedDevice device{testing::test_card(1_GiB)};
    BusyStreams streams;
    auto made = make_policy(policy, device, streams, {});
    if (!made) {
      return made.error();
    }
    static_cast<void>(replay(trace, watch(**made), device));
    return Ok{};
  });
  return waste.value();
}

Bytes sum_of(const Waste& waste) {
  Bytes sum;
  for (const Waste::Cause& cause : waste.causes) {
    sum += cause.bytes;
  }
  return sum;
}

// [a 5 -][b 5 +][10 -] of 20 MiB, [c 100 -], then d: 101 MiB fit in neither, though 115 are free.
TEST(Waste, NamesAnIdleSegmentAndAPinnedOneAndWhatPinsIt) {
  const Waste waste =
      explain({iteration(), phase(0), allocate(0, 5_MiB), allocate(1, 5_MiB), free_of(0), phase(1),
               allocate(2, 100_MiB), free_of(2), allocate(3, 101_MiB)});
  EXPECT_EQ(waste.reserved, 222_MiB);
  EXPECT_EQ(waste.allocated, 107_MiB);
  EXPECT_EQ(sum_of(waste), waste.reserved - waste.allocated);
  EXPECT_EQ(waste.peak.op, 8);
  EXPECT_EQ(waste.peak.iteration, 0);
  EXPECT_EQ(waste.peak.phase, "backward");
  EXPECT_EQ(waste.request, 101_MiB);
  EXPECT_EQ(waste.taken->size, 102_MiB);

  ASSERT_EQ(waste.causes.size(), 2U);
  EXPECT_EQ(waste.causes[0].cause, WasteCause::idle_segment);
  EXPECT_EQ(waste.causes[0].bytes, 100_MiB);
  EXPECT_EQ(waste.causes[0].segments, 1);
  EXPECT_EQ(waste.causes[1].cause, WasteCause::pinned_hole);
  EXPECT_EQ(waste.causes[1].bytes, 15_MiB);
  EXPECT_EQ(waste.causes[1].segments, 1);
  EXPECT_EQ(waste.causes[1].blocks, 2);

  ASSERT_EQ(waste.segments.size(), 2U);
  const WastedSegment& idle = waste.segments[0];
  EXPECT_EQ(idle.unused, 100_MiB);
  EXPECT_TRUE(idle.pins.empty());
  EXPECT_EQ(idle.born->op, 6);
  EXPECT_EQ(idle.born_for, 100_MiB);
  EXPECT_EQ(idle.reason, GrowthReason::needed);  // 15 MiB were free
  const WastedSegment& pinned = waste.segments[1];
  EXPECT_EQ(pinned.largest_free, 10_MiB);
  ASSERT_EQ(pinned.pins.size(), 1U);
  EXPECT_EQ(pinned.pins[0].size, 5_MiB);
  EXPECT_EQ(pinned.pins[0].born.op, 3);
  EXPECT_EQ(pinned.pins[0].born.phase, "forward");
}

// c's 64 MiB and d's 64 MiB are free, but 65 in one piece are nowhere.
TEST(Waste, TellsWhyASegmentWasTaken) {
  const Waste waste =
      explain({allocate(0, 64_MiB), allocate(1, 64_MiB), free_of(0), free_of(1),
               allocate(2, 65_MiB), free_of(2), allocate(3, 3_MiB), allocate(4, 70_MiB)});
  ASSERT_FALSE(waste.segments.empty());
  for (const WastedSegment& segment : waste.segments) {
    if (segment.born_for == 65_MiB) {
      EXPECT_EQ(segment.reason, GrowthReason::too_small);
      EXPECT_EQ(segment.largest_usable, 64_MiB);
      EXPECT_EQ(segment.free_then, 128_MiB);
      return;
    }
  }
  FAIL() << "no segment was taken for 65 MiB";
}

TEST(Waste, KnowsWhatAnotherStreamHoldsAndWhatAnotherStreamsPoolHas) {
  const Waste waste = explain({allocate(0, 32_MiB), uses(0, 1), free_of(0),  // held by stream 1
                               allocate(1, 40_MiB, 1), free_of(1),           // free, stream 1's
                               allocate(2, 32_MiB)});
  ASSERT_EQ(waste.causes.size(), 2U);
  EXPECT_EQ(waste.causes[0].cause, WasteCause::held_by_stream);
  EXPECT_EQ(waste.causes[0].bytes, 32_MiB);
  EXPECT_EQ(waste.causes[1].cause, WasteCause::other_stream);
  EXPECT_EQ(waste.causes[1].bytes, 40_MiB);
  EXPECT_EQ(sum_of(waste), waste.reserved - waste.allocated);
}

TEST(Waste, OfNothingIsNothing) {
  EXPECT_EQ(explain({iteration()}).reserved, Bytes{});
  EXPECT_TRUE(explain({iteration()}).causes.empty());
}

TEST(Waste, AddsUpUnderEveryPolicy) {
  for (const PolicyEntry& policy : policies()) {
    const Waste waste = explain({allocate(0, 5_MiB), allocate(1, 300_KiB), free_of(0),
                                 allocate(2, 70_MiB), free_of(2), allocate(3, 71_MiB)},
                                std::string{policy.name});
    EXPECT_EQ(sum_of(waste), waste.reserved - waste.allocated) << policy.name;
  }
}

}  // namespace
}  // namespace peakcast
