#include "cuda_check/touch_check.hpp"

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/host_toucher.hpp"

namespace peakcast {
namespace {

using namespace literals;

/// Streams whose work never ends by itself: every event waits for somebody to wait.
class BusyStreams final : public Streams {
 public:
  EventId record(StreamId /*stream*/) override { return EventId{next_++}; }
  bool completed(EventId /*event*/) override { return false; }
  void wait(EventId /*event*/) override {}
  void synchronize(StreamId /*stream*/) override {}
  void synchronize_device() override {}
  void forget(EventId /*event*/) override {}

 private:
  std::uint32_t next_{};
};

constexpr StreamId kMain{0};
constexpr StreamId kOther{1};

SimulatedDeviceOptions test_card() {
  SimulatedDeviceOptions options;
  options.spec.name = "test card";
  options.spec.total = 8_GiB;
  options.spec.granularity = 2_MiB;
  options.spec.compute_major = 9;
  return options;
}

class TouchCheckTest : public ::testing::Test {
 protected:
  TouchCheckTest() {
    auto made = make_policy("pytorch", device_, streams_, PolicyOptions{});
    policy_ = std::move(made).value();
  }

  static Placement placed(const AllocOutcome& outcome) { return std::get<Placement>(outcome); }

  SimulatedDevice device_{test_card()};
  BusyStreams streams_{};
  std::unique_ptr<Allocator> policy_{};
  testing::HostToucher toucher_{};
};

/// Allocates and drops in a pattern that splits, merges and reuses blocks.
void churn(Allocator& allocator, int rounds) {
  std::vector<BlockId> live;
  for (int i = 0; i < rounds; ++i) {
    const Bytes size{512 + (i * 7919) % 3'000'000};
    live.push_back(std::get<Placement>(allocator.allocate({size, kMain})).block);
    if (i % 3 == 2) {
      const std::size_t victim = static_cast<std::size_t>(i * 31) % live.size();
      allocator.deallocate(live[victim]);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }
}

TEST_F(TouchCheckTest, FindsNothingInASoundPolicy) {
  TouchCheck check{*policy_, toucher_};
  churn(check, 2000);
  const TouchReport report = check.finish();
  EXPECT_EQ(report.bad_words, 0);
  EXPECT_EQ(report.filled_bytes, report.verified_bytes);
  EXPECT_GT(report.filled_bytes, 0);
}

TEST_F(TouchCheckTest, FindsABlockThatLiesInALiveOne) {
  BuggyAllocator buggy{*policy_, PlantedBug::overlap};
  TouchCheck check{buggy, toucher_};
  churn(check, 500);
  const TouchReport report = check.finish();
  EXPECT_GT(report.bad_words, 0);
  ASSERT_TRUE(report.first);
}

/// main:   alloc A | use by other | free A | alloc B (same size)
/// other:            |---- pause ----------------| reads A
TEST_F(TouchCheckTest, FindsABlockThatIsReusedWhileAnotherStreamReadsIt) {
  BuggyAllocator buggy{*policy_, PlantedBug::early_reuse};
  TouchCheck check{buggy, toucher_};
  const Placement a = placed(check.allocate({1_MiB, kMain}));
  check.record_stream(a.block, kOther);
  check.deallocate(a.block);
  const Placement b = placed(check.allocate({1_MiB, kMain}));
  ASSERT_EQ(a.address, b.address);
  EXPECT_GT(check.finish().bad_words, 0);
}

TEST_F(TouchCheckTest, FindsNothingWhenThePolicyWaitsForTheOtherStream) {
  TouchCheck check{*policy_, toucher_};
  const Placement a = placed(check.allocate({1_MiB, kMain}));
  check.record_stream(a.block, kOther);
  check.deallocate(a.block);
  const Placement b = placed(check.allocate({1_MiB, kMain}));
  EXPECT_NE(a.address, b.address);
  EXPECT_EQ(check.finish().bad_words, 0);
}

TEST_F(TouchCheckTest, ClearGivesEverythingBack) {
  TouchCheck check{*policy_, toucher_};
  const Bytes before = device_.free_memory();
  churn(check, 100);
  static_cast<void>(check.finish());
  check.clear();
  EXPECT_EQ(device_.free_memory(), before);
}

TEST(HostToucher, SeesAWriteIntoTheMiddleOfABlock) {
  testing::HostToucher toucher;
  toucher.fill({Address{1024}, 4_KiB, 1}, kMain);
  toucher.fill({Address{2048}, 512_B, 2}, kMain);
  toucher.verify({Address{1024}, 4_KiB, 1}, kMain);
  const TouchReport report = toucher.finish();
  EXPECT_EQ(report.bad_words, 1);
  ASSERT_TRUE(report.first);
  EXPECT_EQ(report.first->offset, 1024U);
}

TEST(Pattern, DiffersBetweenNeighboursAndBetweenBlocks) {
  EXPECT_NE(pattern_word(1, 0), pattern_word(1, 8));
  EXPECT_NE(pattern_word(1, 0), pattern_word(2, 0));
  EXPECT_NE(pattern_word(1, 8), pattern_word(2, 0));
}

}  // namespace
}  // namespace peakcast
