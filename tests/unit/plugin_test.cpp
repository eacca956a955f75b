#include "allocators/plugin/plugin.hpp"

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/test_card.hpp"

namespace peakcast {
namespace {

using namespace literals;

class Plugin : public ::testing::Test {
 protected:
  std::unique_ptr<Allocator> load(const std::string& settings) {
    auto made = make_policy(PEAKCAST_TEST_PLUGIN, device_, streams_, {.alloc_conf = settings});
    EXPECT_TRUE(made) << made.error().message;
    return std::move(made).value();
  }
  SimulatedDevice device_{testing::test_card(4_GiB)};
  IdleStreams streams_{};
};

TEST_F(Plugin, IsStoppedAtTheRequestWhoseBlockOverlapsAnother) {
  const auto policy = load("");
  EXPECT_EQ(policy->name(), "overlapping");
  EXPECT_TRUE(std::holds_alternative<Placement>(policy->allocate({1_MiB, {}})));
  EXPECT_TRUE(std::holds_alternative<Placement>(policy->allocate({1_MiB, {}})));
  EXPECT_EQ(policy->fault(), std::nullopt);
  EXPECT_TRUE(std::holds_alternative<OutOfMemory>(policy->allocate({1_MiB, {}})));
  ASSERT_TRUE(policy->fault());
  EXPECT_NE(policy->fault()->find("at request 3"), std::string::npos) << *policy->fault();
  EXPECT_NE(policy->fault()->find("which request 2 holds"), std::string::npos) << *policy->fault();
}

TEST_F(Plugin, IsStoppedWhenABlockLiesOutsideItsMemory) {
  const auto policy = load("outside");
  EXPECT_TRUE(std::holds_alternative<OutOfMemory>(policy->allocate({1_MiB, {}})));
  ASSERT_TRUE(policy->fault());
  EXPECT_NE(policy->fault()->find("outside the memory that it holds"), std::string::npos);
}

TEST_F(Plugin, IsStoppedWhenItReturnsWhatItDoesNotHold) {
  const auto policy = load("release");
  EXPECT_TRUE(std::holds_alternative<OutOfMemory>(policy->allocate({1_MiB, {}})));
  ASSERT_TRUE(policy->fault());
  EXPECT_NE(policy->fault()->find("release of 0x1000"), std::string::npos) << *policy->fault();
}

TEST_F(Plugin, ThatDoesNotExistIsAnError) {
  const auto made = make_policy("./no_such_policy.so", device_, streams_, {});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("no_such_policy.so"), std::string::npos);
}

}  // namespace
}  // namespace peakcast
