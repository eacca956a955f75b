#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/policy.hpp"
#include "allocators/policy_list.hpp"

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

std::vector<std::string> texts(std::string_view list) {
  std::vector<std::string> out;
  for (const PolicyName& name : policy_list(list)) {
    out.push_back(name.text());
  }
  return out;
}

TEST(PolicyName, OfAListKeepsTheCommasOfItsSettings) {
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts("pytorch,buddy"), (Texts{"pytorch", "buddy"}));
  EXPECT_EQ(texts("pytorch,pytorch+a:1,b:2,buddy"), (Texts{"pytorch", "pytorch+a:1+b:2", "buddy"}));
  EXPECT_EQ(texts("pytorch+a:[256:1,512:2,>:4],pytorch@2.6+b:1"),
            (Texts{"pytorch+a:[256:1,512:2,>:4]", "pytorch@2.6+b:1"}));
  EXPECT_EQ(texts("buddy+a:1,./x:y.so,bfc"), (Texts{"buddy+a:1", "./x:y.so", "bfc"}));
  EXPECT_EQ(texts("a,,b"), (Texts{"a", "", "b"}));
  EXPECT_EQ(PolicyName::parse("pytorch+a:[1:2,3:4]+b:1").settings, "a:[1:2,3:4],b:1");
}

// A path may hold any sign.
TEST(PolicyName, OfAPluginIsItsWholePath) {
  EXPECT_EQ(PolicyName::parse("./my+odd@policy.so").base, "./my+odd@policy.so");
}

}  // namespace
}  // namespace peakcast
