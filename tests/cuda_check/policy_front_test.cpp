#include "cuda_check/policy_front.hpp"

#include <set>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "cuda_check/directed_streams.hpp"
#include "sim/device/simulated_device.hpp"

namespace peakcast {
namespace {

using namespace literals;

SimulatedDeviceOptions test_card() {
  SimulatedDeviceOptions options;
  options.spec.name = "test card";
  options.spec.total = 1_GiB;
  options.spec.granularity = 2_MiB;
  options.spec.compute_major = 9;
  return options;
}

class PolicyFrontTest : public ::testing::Test {
 protected:
  PolicyFrontTest() {
    auto made = make_policy("pytorch", device_, streams_, PolicyOptions{});
    policy_ = std::move(made).value();
  }
  SimulatedDevice device_{test_card()};
  IdleStreams streams_{};
  std::unique_ptr<Allocator> policy_{};
};

TEST_F(PolicyFrontTest, GivesABlockBackByItsAddress) {
  PolicyFront front{*policy_, device_};
  const auto outcome = front.allocate(3_MiB, StreamId{});
  ASSERT_TRUE(std::holds_alternative<Address>(outcome));
  const Address address = std::get<Address>(outcome);
  EXPECT_TRUE(front.record_stream(address, StreamId{1}));
  EXPECT_TRUE(front.deallocate(address));
  EXPECT_FALSE(front.deallocate(address));
  EXPECT_FALSE(front.record_stream(address, StreamId{1}));
}

TEST_F(PolicyFrontTest, ReportsAnOutOfMemoryInTheWordsThatProgramsKnow) {
  PolicyFront front{*policy_, device_};
  const auto outcome = front.allocate(2_GiB, StreamId{});
  ASSERT_TRUE(std::holds_alternative<OutOfMemory>(outcome));
  const std::string message =
      out_of_memory_message(std::get<OutOfMemory>(outcome), 0, 1_GiB, 512_MiB, "pytorch");
  EXPECT_EQ(
      message,
      "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB "
      "of which 1.00 GiB is free. 512.00 MiB allowed; Of the allocated memory 0 bytes is "
      "allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated. The "
      "allocator is peakcast's policy pytorch.");
}

TEST_F(PolicyFrontTest, TellsItsBooks) {
  PolicyFront front{*policy_, device_};
  static_cast<void>(front.allocate(3_MiB, StreamId{}));
  const Json books = front.statistics();
  EXPECT_EQ(books["policy"], "pytorch");
  EXPECT_EQ(books["allocated"]["current_bytes"], (3_MiB).count());
  EXPECT_EQ(books["reserved"]["peak_bytes"], (20_MiB).count());
  EXPECT_EQ(books["device_calls"]["acquire"], 1);
}

/// Counts what it is asked; every event completes only when it is waited for.
class CountingStreams final : public Streams {
 public:
  EventId record(StreamId stream) override {
    recorded.push_back(stream);
    return EventId{static_cast<std::uint32_t>(recorded.size() - 1)};
  }
  bool completed(EventId /*event*/) override { return says; }
  void wait(EventId event) override { waited.push_back(event); }
  void synchronize(StreamId /*stream*/) override { ++synchronized; }
  void synchronize_device() override { ++synchronized; }
  void forget(EventId event) override { forgotten.push_back(event); }
  std::vector<StreamId> recorded{};
  std::vector<EventId> waited{};
  std::vector<EventId> forgotten{};
  int synchronized{};
  bool says{};
};

TEST_F(PolicyFrontTest, KeepsAPrivatePoolApartUntilItsLastUserAndBlockAreGone) {
  const auto made = make_policy("peakcast", device_, streams_, PolicyOptions{});
  PolicyFront front{*made.value(), device_, [&] {
                      return make_policy("pytorch", device_, streams_, PolicyOptions{}).value();
                    }};
  constexpr PolicyFront::PoolId kGraph{1, 0};
  front.retain(kGraph);
  const Address inside = std::get<Address>(front.allocate(30_MiB, StreamId{}, kGraph));
  const Address outside = std::get<Address>(front.allocate(30_MiB, StreamId{}));
  ASSERT_EQ(front.heaps().size(), 2U);
  EXPECT_EQ(front.heaps()[1].first, kGraph);
  EXPECT_EQ(front.heaps()[1].second.segments[0].address, inside);
  EXPECT_EQ(front.books().allocated.current, (60_MiB).count());
  EXPECT_TRUE(front.deallocate(outside));
  front.empty_cache();
  EXPECT_EQ(front.books().reserved.current, (30_MiB).count()) << "the pool's stays";
  EXPECT_TRUE(front.deallocate(inside));
  EXPECT_EQ(front.books().reserved.current, (30_MiB).count()) << "a graph may replay there";
  front.release(kGraph);
  EXPECT_EQ(front.books().reserved.current, 0);
  EXPECT_EQ(front.books().allocated.peak, (60_MiB).count());
  EXPECT_EQ(front.heaps().size(), 1U);
  front.reset_peaks();
  EXPECT_EQ(front.books().allocated.peak, 0);
}

TEST_F(PolicyFrontTest, RecordsNoEventWhileAGraphIsCaptured) {
  CountingStreams streams;
  const auto made = make_policy("pytorch", device_, streams, PolicyOptions{});
  PolicyFront front{*made.value(), device_};
  const Address block = std::get<Address>(front.allocate(3_MiB, StreamId{}));
  EXPECT_TRUE(front.record_stream(block, StreamId{1}));
  front.begin_capture();
  EXPECT_TRUE(front.deallocate(block));
  EXPECT_TRUE(streams.recorded.empty());
  front.end_capture();
  EXPECT_EQ(streams.recorded.size(), 1U);
}

TEST_F(PolicyFrontTest, ServesManyThreadsWithoutGivingABlockTwice) {
  PolicyFront front{*policy_, device_};
  constexpr int kThreads = 4;
  constexpr int kRounds = 2000;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::vector<std::vector<Address>> kept(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&front, &kept, t] {
      for (int i = 0; i < kRounds; ++i) {
        const auto outcome = front.allocate(Bytes{512} * (1 + (i + t) % 9), StreamId{});
        const Address address = std::get<Address>(outcome);
        if (i % 10 == 0) {
          kept[static_cast<std::size_t>(t)].push_back(address);
        } else if (!front.deallocate(address)) {
          ADD_FAILURE() << "a live block was not known";
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  std::set<Address> addresses;
  for (const auto& list : kept) {
    addresses.insert(list.begin(), list.end());
  }
  EXPECT_EQ(addresses.size(), static_cast<std::size_t>(kThreads * kRounds / 10));
}

TEST(DirectedStreams, BelievesTheDirectionOnlyOnceTheWorkHasEnded) {
  CountingStreams directs;
  CountingStreams works;
  static_cast<void>(works.record(StreamId{9}));  // so that the two number their events differently
  DirectedStreams streams{directs, works};
  const EventId event = streams.record(StreamId{3});
  EXPECT_FALSE(streams.completed(event));
  EXPECT_TRUE(works.waited.empty()) << "not yet: the device may still be at work";
  directs.says = true;
  EXPECT_TRUE(streams.completed(event));
  ASSERT_EQ(works.waited.size(), 1U);
  EXPECT_EQ(works.waited[0], EventId{1});
  streams.forget(event);
  EXPECT_EQ(works.forgotten[0], EventId{1});
  EXPECT_EQ(directs.forgotten[0], EventId{0});
  streams.synchronize(StreamId{3});
  EXPECT_EQ(works.synchronized, 1);
}

}  // namespace
}  // namespace peakcast
