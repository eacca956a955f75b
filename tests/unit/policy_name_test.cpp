#include <string_view>

#include <gtest/gtest.h>

#include "allocators/policy.hpp"

namespace peakcast {
namespace {

TEST(PolicyName, IsABaseAReleaseAndSettings) {
  const PolicyName name = PolicyName::parse("pytorch@2.6+expandable_segments:True+roundup:4");
  EXPECT_EQ(name.base, "pytorch");
  EXPECT_EQ(name.release, "2.6");
  EXPECT_EQ(name.settings, "expandable_segments:True,roundup:4");
  EXPECT_TRUE(name.is_pytorch());
  EXPECT_FALSE(PolicyName::parse("pytorch2").is_pytorch());
}

TEST(PolicyName, IsWrittenAsItWasRead) {
  for (const std::string_view text : {"", "buddy", "pytorch@2.6", "buddy+segment:64MiB",
                                      "pytorch@2.6+a:1+b:2", "./my+odd@policy.so"}) {
    EXPECT_EQ(PolicyName::parse(text).text(), text);
  }
}

// A path may hold any sign.
TEST(PolicyName, OfAPluginIsItsWholePath) {
  EXPECT_EQ(PolicyName::parse("./my+odd@policy.so").base, "./my+odd@policy.so");
}

}  // namespace
}  // namespace peakcast
