// Memory that one stream let go and another one uses: who waits for what.

#include "allocators/peakcast/stream_order.hpp"

#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/peakcast/allocator.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/test_card.hpp"

namespace peakcast::near_floor {
namespace {

using namespace literals;

/// Events that never complete by themselves, and who was told to wait for which.
class WatchedStreams final : public Streams {
 public:
  EventId record(StreamId stream) override {
    recorded.push_back(stream.value);
    return EventId{static_cast<std::uint32_t>(recorded.size() - 1)};
  }
  bool completed(EventId /*event*/) override { return false; }
  void wait(EventId /*event*/) override { ++host_waits; }
  void stream_wait(StreamId waiter, EventId event) override {
    waits.emplace_back(waiter.value, event.value);
  }
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}
  void forget(EventId /*event*/) override {}

  std::vector<std::uint32_t> recorded{};                         ///< stream, by event
  std::vector<std::pair<std::uint32_t, std::uint32_t>> waits{};  ///< waiter and event
  int host_waits{};
};
using Waits = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

TEST(StreamOrder, NeedsNoEventsForOneStream) {
  WatchedStreams streams;
  StreamOrder order{streams};
  order.turn_to(0);
  const Stamp stamp = order.let_go(0);
  order.before_use(0, stamp);
  EXPECT_TRUE(streams.recorded.empty());
  EXPECT_TRUE(streams.waits.empty());
}

TEST(StreamOrder, WaitsForTheEventBehindTheLastUseAndNotForLaterWork) {
  WatchedStreams streams;
  StreamOrder order{streams};
  order.turn_to(0);
  order.turn_to(1);  // event 0
  order.turn_to(0);
  const Stamp early = order.let_go(0);
  order.turn_to(1);  // event 1 covers `early`
  order.turn_to(0);
  const Stamp late = order.let_go(0);
  order.turn_to(1);  // event 2 covers `late`
  order.before_use(1, early);
  EXPECT_EQ(streams.waits, (Waits{{1, 1}}));
  order.before_use(1, early);  // it has waited for that
  EXPECT_EQ(streams.waits.size(), 1U);
  order.before_use(1, late);
  EXPECT_EQ(streams.waits, (Waits{{1, 1}, {1, 2}}));
  order.before_use(0, late);  // its own work is in order
  EXPECT_EQ(streams.waits.size(), 2U);
  EXPECT_EQ(streams.host_waits, 0);
}

TEST(StreamOrder, WaitsForBothWhenMemoryOfTwoStreamsBecameOne) {
  WatchedStreams streams;
  StreamOrder order{streams};
  order.turn_to(0);
  order.turn_to(1);
  const Stamp of_zero = order.let_go(0);
  const Stamp of_one = order.let_go(1);
  order.turn_to(2);
  order.before_use(2, StreamOrder::merge(of_zero, of_one));
  ASSERT_EQ(streams.waits.size(), 2U);
  EXPECT_EQ(streams.recorded[streams.waits[0].second], 0U);
  EXPECT_EQ(streams.recorded[streams.waits[1].second], 1U);
}

TEST(StreamOrder, TheFirstStreamIsWaitedForAlthoughItBeganAlone) {
  WatchedStreams streams;
  StreamOrder order{streams};
  order.turn_to(3);
  const Stamp stamp = order.let_go(3);
  order.turn_to(1);
  order.before_use(1, stamp);
  ASSERT_EQ(streams.waits.size(), 1U);
  EXPECT_EQ(streams.recorded[streams.waits[0].second], 3U);
}

TEST(NearFloor, ABlockThatAnotherStreamLetGoIsWaitedForOnTheDevice) {
  SimulatedDevice device{testing::test_card(1_GiB)};
  WatchedStreams streams;
  NearFloorAllocator policy{device, streams, kTight, std::nullopt};
  const auto first = std::get<Placement>(policy.allocate({100_MiB, StreamId{0}}));
  policy.deallocate(first.block);
  const auto second = std::get<Placement>(policy.allocate({100_MiB, StreamId{1}}));
  EXPECT_EQ(second.address, first.address);
  EXPECT_EQ(streams.waits, (Waits{{1, 0}}));
  EXPECT_EQ(streams.host_waits, 0);
}

}  // namespace
}  // namespace peakcast::near_floor
