#include "sim/device/simulated_device.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "sim/device/address_source.hpp"
#include "sim/device/driver_costs.hpp"
#include "sim/device/gpu_description.hpp"
#include "tests/support/random.hpp"
#include "tests/support/scripted_streams.hpp"

namespace peakcast {
namespace {

using namespace literals;
using std::chrono::microseconds;

DeviceSpec card(Bytes total) {
  return {
      .name = "card", .total = total, .granularity = 2_MiB, .compute_major = 9, .compute_minor = 0};
}

TEST(SimulatedDevice, GivesWholePagesAndFailsWhenTheyAreUsedUp) {
  SimulatedDevice device{{.spec = card(10_MiB)}};
  const auto a = device.acquire(3_MiB);  // two pages
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(device.free_memory(), 6_MiB);
  EXPECT_EQ(device.acquire(7_MiB), std::nullopt);
  const auto b = device.acquire(6_MiB);
  ASSERT_TRUE(b.has_value());
  EXPECT_EQ(device.free_memory(), 0_MiB);
  EXPECT_EQ(device.acquire(1_B), std::nullopt);
  device.release(*a);
  EXPECT_EQ(device.free_memory(), 4_MiB);
  EXPECT_EQ(device.peak_used(), 10_MiB);
  EXPECT_EQ(device.counts().acquire, 4);
  EXPECT_EQ(device.counts().release, 1);
}

TEST(SimulatedDevice, LetsRequestsUpToOneMebibyteShareAPage) {
  SimulatedDevice device{{.spec = card(8_MiB)}};
  const auto a = device.acquire(1_MiB);
  const auto b = device.acquire(1_MiB);
  EXPECT_EQ(device.free_memory(), 6_MiB);
  const auto c = device.acquire(512_B);
  EXPECT_EQ(device.free_memory(), 4_MiB);
  device.release(*a);
  EXPECT_EQ(device.free_memory(), 4_MiB);  // b still holds the page
  device.release(*b);
  EXPECT_EQ(device.free_memory(), 6_MiB);
  device.release(*c);
  EXPECT_EQ(device.free_memory(), 8_MiB);
  // One byte more than 1 MiB shares nothing.
  static_cast<void>(device.acquire(1_MiB + 1_B));
  static_cast<void>(device.acquire(1_MiB + 1_B));
  EXPECT_EQ(device.free_memory(), 4_MiB);
}

TEST(SimulatedDevice, CountsWhatLiesOutsideEveryAllocator) {
  const SimulatedDevice device{{.spec = card(1_GiB), .outside = 600_MiB}};
  EXPECT_EQ(device.free_memory(), 424_MiB);
  EXPECT_EQ(device.peak_used(), 600_MiB);
}

TEST(SimulatedDevice, RefusesSizesBeyondAnyCardWithoutOverflow) {
  SimulatedDevice device{{.spec = card(1_GiB)}};
  EXPECT_EQ(device.acquire(Bytes{INT64_MAX}), std::nullopt);
  EXPECT_EQ(device.free_memory(), 1_GiB);
}

TEST(SimulatedDevice, MapsPhysicalMemoryIntoReservations) {
  SimulatedDevice device{{.spec = card(6_MiB)}};
  const Address range = device.reserve(64_GiB).value();  // address space costs no memory
  EXPECT_EQ(device.free_memory(), 6_MiB);
  const PhysicalId a = device.create(2_MiB).value();
  const PhysicalId b = device.create(4_MiB).value();
  EXPECT_EQ(device.create(2_MiB), std::nullopt);
  device.map(range, a);
  device.map(range + 2_MiB, b);
  device.destroy(a);  // the memory goes back once it is mapped nowhere
  EXPECT_EQ(device.free_memory(), 0_MiB);
  device.unmap(range, 6_MiB);  // over both mappings
  EXPECT_EQ(device.free_memory(), 2_MiB);
  device.map(range + 32_MiB, b);
  device.map(range + 48_MiB, b);  // at two addresses
  device.destroy(b);
  device.unmap(range + 32_MiB, 4_MiB);
  EXPECT_EQ(device.free_memory(), 2_MiB);
  device.unmap(range + 48_MiB, 4_MiB);
  EXPECT_EQ(device.free_memory(), 6_MiB);
  device.unreserve(range, 64_GiB);
  EXPECT_EQ(device.counts().map, 4);
  EXPECT_EQ(device.counts().unmap, 3);
}

TEST(SimulatedDeviceDeathTest, StopsAtMisuse) {
  SimulatedDevice device{{.spec = card(64_MiB)}};
  const Address address = device.acquire(2_MiB).value();
  device.release(address);
  EXPECT_DEATH(device.release(address), "not acquired");
  EXPECT_DEATH(static_cast<void>(device.create(3_MiB)), "multiples of the granularity");
  const Address range = device.reserve(64_MiB).value();
  const PhysicalId a = device.create(4_MiB).value();
  const PhysicalId b = device.create(4_MiB).value();
  device.map(range, a);
  EXPECT_DEATH(device.map(range + 2_MiB, b), "mapped over a mapping");
  EXPECT_DEATH(device.unmap(range, 2_MiB), "part of a mapping");
  EXPECT_DEATH(device.unmap(range + 4_MiB, 4_MiB), "not mapped");
  device.destroy(a);
  EXPECT_DEATH(device.destroy(a), "destroyed twice");
}

TEST(SimulatedDevice, MakesCudaFreeWaitForTheStreams) {
  support::ScriptedStreams streams;
  SimulatedDevice device{{.spec = card(64_MiB), .streams = &streams}};
  const Address address = device.acquire(2_MiB).value();
  const EventId event = streams.record(StreamId{1});
  EXPECT_FALSE(streams.completed(event));
  device.release(address);
  EXPECT_TRUE(streams.completed(event));
}

TEST(SimulatedDevice, SpendsTheMeasuredTimeOfEachCall) {
  SimulatedDevice device{{.spec = card(80_GiB)}};
  const DriverCosts& costs = reference_gpu().driver_costs;
  const Address address = device.acquire(64_MiB).value();
  EXPECT_EQ(device.host_time(), cost_at(costs.acquire, 64_MiB));
  device.release(address);
  EXPECT_EQ(device.host_time(), cost_at(costs.acquire, 64_MiB) + cost_at(costs.release, 64_MiB));
}

TEST(DriverCosts, AreInterpolatedBetweenMeasuredSizesAndGoOnBehindTheLast) {
  constexpr std::array<CostPoint, 3> kPoints{CostPoint{2_MiB, microseconds{10}},
                                             CostPoint{4_MiB, microseconds{20}},
                                             CostPoint{8_MiB, microseconds{60}}};
  EXPECT_EQ(cost_at(kPoints, 512_B), microseconds{10});
  EXPECT_EQ(cost_at(kPoints, 2_MiB), microseconds{10});
  EXPECT_EQ(cost_at(kPoints, 3_MiB), microseconds{15});
  EXPECT_EQ(cost_at(kPoints, 4_MiB), microseconds{20});
  EXPECT_EQ(cost_at(kPoints, 5_MiB), microseconds{30});
  EXPECT_EQ(cost_at(kPoints, 10_MiB), microseconds{80});  // slope 10 us a MiB
  EXPECT_EQ(cost_at(std::span{kPoints}.first(1), 1_GiB), microseconds{10});
}

// The chunks of the model (a chunk is a multiple of 32 MiB):
//
//   ... | new chunks, downward | 416 MiB: last 2 free | 96 MiB: last 24 free | the context's other
//
// The mmap area ends at 1 TiB. The context's first 8256 MiB end 8256 below; 37 MiB more and a chunk
// of 32 that is aligned down from there end 8352 below. Distances count from there.
class ModelledChunks : public testing::Test {
 protected:
  static constexpr std::uint64_t kTop = (std::uint64_t{1} << 40) - (std::uint64_t{8352} << 20);
  /// What acquire(size) gives, as a distance below the top.
  Bytes below_top(Bytes size) { return Address{kTop} - addresses_.acquire(size).value(); }
  ModelledAddresses addresses_{Address{std::uint64_t{1} << 40}, Address{0x302000000}};
};

TEST_F(ModelledChunks, LookFromTheNewestToTheOldestAndTakeTheLowestHole) {
  EXPECT_EQ(below_top(2_MiB), 98_MiB);    // the newer chunk's last page
  EXPECT_EQ(below_top(20_MiB), 24_MiB);   // the older chunk's hole: [-24, -4)
  EXPECT_EQ(below_top(4_MiB), 4_MiB);     // and its end
  EXPECT_EQ(below_top(20_MiB), 544_MiB);  // a new chunk of 32 MiB below both
  EXPECT_EQ(below_top(2_MiB), 524_MiB);   // its hole begins at 544 - 20
  EXPECT_EQ(below_top(40_MiB), 608_MiB);  // a chunk of 64 MiB
}

TEST_F(ModelledChunks, GiveTheirSpaceBackWhenTheyAreEmptyAgain) {
  const Address a = addresses_.acquire(40_MiB).value();
  EXPECT_EQ(Address{kTop} - a, 576_MiB);
  addresses_.release(a, 40_MiB);
  EXPECT_FALSE(addresses_.gave(a));
  EXPECT_EQ(below_top(33_MiB), 576_MiB);
}

TEST_F(ModelledChunks, FillTheHighestGapThatHas32MebibytesToSpare) {
  const Address a = addresses_.acquire(64_MiB).value();  // [-576, -512)
  const Address b = addresses_.acquire(32_MiB).value();  // [-608, -576)
  addresses_.release(a, 64_MiB);
  EXPECT_EQ(below_top(64_MiB), 672_MiB);  // the gap of 64 MiB leaves nothing to align with
  EXPECT_EQ(below_top(32_MiB), 544_MiB);
  EXPECT_TRUE(addresses_.gave(b));
}

TEST_F(ModelledChunks, TakeTheSmallestHoleOfAChunkThatIsBigEnough) {
  // One chunk: [10 a][6 b][4 c][4 d][8 -]; a and c become holes of 10 and 4.
  const Address a = addresses_.acquire(26_MiB).value();
  addresses_.release(a, 26_MiB);
  const Address fill = addresses_.acquire(24_MiB).value();  // the older chunk's hole
  const Address first = addresses_.acquire(10_MiB).value();
  static_cast<void>(addresses_.acquire(6_MiB));
  const Address third = addresses_.acquire(4_MiB).value();
  static_cast<void>(addresses_.acquire(4_MiB));
  addresses_.release(first, 10_MiB);
  addresses_.release(third, 4_MiB);
  EXPECT_EQ(addresses_.acquire(4_MiB), third);
  EXPECT_EQ(addresses_.acquire(6_MiB), first + 24_MiB);  // 8 MiB before 10 MiB
  EXPECT_EQ(addresses_.acquire(10_MiB), first);
  EXPECT_TRUE(addresses_.gave(fill));
}

TEST_F(ModelledChunks, PackSmallRequestsIntoPagesInStepsOf512) {
  const Address a = addresses_.acquire(1_B).value();
  const Address b = addresses_.acquire(513_B).value();
  const Address c = addresses_.acquire(1_MiB).value();
  EXPECT_EQ(b - a, 512_B);
  EXPECT_EQ(c - b, 1024_B);
}

TEST_F(ModelledChunks, NeverOverlapThroughRandomUse) {
  support::Random random{7};
  struct Held {
    Address address;
    Bytes size;
  };
  std::vector<Held> held;
  for (int step = 0; step < 3000; ++step) {
    if (held.size() < 60 && !random.one_in(3)) {
      const Bytes size{random.size_of_bits(0, 28)};
      const Address address = addresses_.acquire(size).value();
      for (const Held& other : held) {
        ASSERT_TRUE(address + size <= other.address || other.address + other.size <= address);
      }
      ASSERT_TRUE(addresses_.gave(address));
      held.push_back({address, size});
    } else if (!held.empty()) {
      const auto at = held.begin() + static_cast<std::ptrdiff_t>(random.below(held.size()));
      addresses_.release(at->address, at->size);
      held.erase(at);
    }
  }
}

TEST_F(ModelledChunks, ReserveUpwardInStepsOf32MebibytesAndUseTheNewestRangeAgain) {
  const Address a = addresses_.reserve(90_GiB).value();
  const Address b = addresses_.reserve(2_MiB).value();
  EXPECT_EQ(a, Address{0x302000000});
  EXPECT_EQ(b - a, 90_GiB);
  addresses_.unreserve(b, 2_MiB);
  EXPECT_EQ(addresses_.reserve(64_MiB), b);
}

Recording recording_of(std::vector<AllocatorEvent> events) {
  Recording recording;
  recording.events = std::move(events);
  return recording;
}
constexpr StreamId kStream{0};

TEST(RecordedAddresses, AreGivenInTheRecordingsOrder) {
  const Recording recording = recording_of({
      {Address{0x1000000}, 2_MiB, kStream, Action::segment_alloc},
      {Address{0x1000000}, 512_B, kStream, Action::alloc},
      {Address{0x1000000}, 2_MiB, kStream, Action::segment_free},
      {Address{0x9000000}, 20_MiB, kStream, Action::segment_alloc},
      {Address{0x9000000}, 5_MiB, kStream, Action::alloc},
  });
  RecordedAddresses addresses{recording};
  addresses.begin_op(1);
  EXPECT_EQ(addresses.acquire(2_MiB), Address{0x1000000});
  addresses.begin_op(4);
  addresses.release(Address{0x1000000}, 2_MiB);
  EXPECT_EQ(addresses.acquire(20_MiB), Address{0x9000000});
  EXPECT_EQ(addresses.parted_at(), std::nullopt);
  EXPECT_TRUE(addresses.refusals().empty());
}

TEST(RecordedAddresses, RefuseWhatTheRecordedCardRefused) {
  // The recorded allocator first gave a segment back, so its first try had failed.
  const Recording recording = recording_of({
      {Address{0x1000000}, 2_MiB, kStream, Action::segment_alloc},
      {Address{0x1000000}, 512_B, kStream, Action::alloc},
      {Address{0x1000000}, 2_MiB, kStream, Action::segment_free},
      {Address{0x9000000}, 20_MiB, kStream, Action::segment_alloc},
      {Address{0x9000000}, 5_MiB, kStream, Action::alloc},
      {Address{0}, 6_MiB, kStream, Action::oom},
  });
  RecordedAddresses addresses{recording};
  addresses.begin_op(1);
  EXPECT_EQ(addresses.acquire(2_MiB), Address{0x1000000});
  addresses.begin_op(4);
  EXPECT_EQ(addresses.acquire(20_MiB), std::nullopt);
  addresses.release(Address{0x1000000}, 2_MiB);
  EXPECT_EQ(addresses.acquire(20_MiB), Address{0x9000000});
  addresses.begin_op(5);
  EXPECT_EQ(addresses.acquire(20_MiB), std::nullopt);
  EXPECT_EQ(addresses.acquire(20_MiB), std::nullopt);  // the same op, counted once
  EXPECT_EQ(addresses.refusals(), (std::vector<std::size_t>{4, 5}));
  EXPECT_EQ(addresses.parted_at(), std::nullopt);
}

TEST(RecordedAddresses, PartWhereThePolicyDoesSomethingElseAndGoOnBesideTheRecording) {
  const Recording recording = recording_of({
      {Address{0x7f0000000000}, 2_MiB, kStream, Action::segment_alloc},
      {Address{0x7f0000000000}, 512_B, kStream, Action::alloc},
      {Address{0x7e0000000000}, 20_MiB, kStream, Action::segment_alloc},
      {Address{0x7e0000000000}, 5_MiB, kStream, Action::alloc},
  });
  RecordedAddresses addresses{recording};
  addresses.begin_op(1);
  const auto other = addresses.acquire(64_MiB);  // the recording took 2 MiB
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(addresses.parted_at(), 0U);
  EXPECT_LT(*other, Address{0x7e0000000000});
  addresses.begin_op(3);
  EXPECT_NE(addresses.acquire(20_MiB), Address{0x7e0000000000});
  EXPECT_TRUE(addresses.create());
}

TEST(RecordedAddresses, FollowMappingsPageByPage) {
  const Recording recording = recording_of({
      {Address{0x302000000}, 4_MiB, kStream, Action::segment_map},
      {Address{0x302000000}, 3_MiB, kStream, Action::alloc},
      {Address{0x302000000}, 4_MiB, kStream, Action::segment_unmap},
  });
  RecordedAddresses addresses{recording};
  addresses.begin_op(1);
  EXPECT_EQ(addresses.reserve(1_GiB), Address{0x302000000});
  EXPECT_TRUE(addresses.create());
  EXPECT_TRUE(addresses.create());
  addresses.map(Address{0x302000000}, 2_MiB);
  addresses.map(Address{0x302200000}, 2_MiB);
  addresses.begin_op(3);
  addresses.unmap(Address{0x302000000}, 2_MiB);
  EXPECT_EQ(addresses.parted_at(), std::nullopt);
  addresses.unmap(Address{0x302000000}, 2_MiB);  // twice: the recording went on
  EXPECT_EQ(addresses.parted_at(), 2U);
}

}  // namespace
}  // namespace peakcast
