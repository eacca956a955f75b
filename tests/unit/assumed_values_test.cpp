#include "workloads/capture/assumed_values.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace peakcast::capture {
namespace {

AssumedValue parsed(const std::string& text) {
  const auto value = parse_assumed_value(text);
  EXPECT_TRUE(value) << text;
  return value ? value.value() : AssumedValue{};
}

TEST(AssumedValue, IsAShareOfWhatCouldBe) {
  EXPECT_EQ(parsed("nonzero@model.py:41=0.3").value(1'048'576), 314'572);
  EXPECT_EQ(parsed("unique@model.py:41=1").value(7), 7);
  EXPECT_EQ(parsed("nonzero@model.py:41=0").value(7), 0);
  EXPECT_EQ(parsed("nonzero@model.py:41=0.000001").value(2'000'000'000'000), 2'000'000);
  EXPECT_EQ(parsed("all@a=b/model.py:41=false").value(1), 0);
  EXPECT_EQ(parsed("any@model.py:41=true").value(1), 1);
}

TEST(AssumedValue, IsForOneLineOfOneFile) {
  const std::vector<AssumedValue> given{parsed("nonzero@model.py:41=0.5"),
                                        parsed("nonzero@/opt/x.py:1=0.25")};
  EXPECT_EQ(assumed_value(given, "nonzero", "/home/me/model.py:41", 8), 4);
  EXPECT_EQ(assumed_value(given, "nonzero", "model.py:41", 8), 4);
  EXPECT_EQ(assumed_value(given, "nonzero", "/opt/x.py:1", 8), 2);
  EXPECT_FALSE(assumed_value(given, "nonzero", "/home/me/my_model.py:41", 8));
  EXPECT_FALSE(assumed_value(given, "nonzero", "/home/me/model.py:4", 8));
  EXPECT_FALSE(assumed_value(given, "unique", "model.py:41", 8));
  EXPECT_FALSE(assumed_value(given, "nonzero", "", 8));
}

TEST(AssumedValue, RefusesWhatMakesNoSense) {
  for (const char* const text :
       {"", "nonzero", "nonzero@model.py:41", "nonzero@model.py=0.3", "nonzero@:41=0.3",
        "nonzero@model.py:x=0.3", "nonzero@model.py:41=", "nonzero@model.py:41=1.5",
        "nonzero@model.py:41=0.", "nonzero@model.py:41=-1", "nonzero@model.py:41=0.1234567",
        "nonzero@model.py:41=true", "all@model.py:41=0.3", "topk@model.py:41=0.3"}) {
    EXPECT_FALSE(parse_assumed_value(text)) << text;
  }
}

}  // namespace
}  // namespace peakcast::capture
