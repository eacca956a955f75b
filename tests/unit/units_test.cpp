#include "sim/core/units.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include <gtest/gtest.h>

#include "sim/core/error.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

TEST(Bytes, AddSubtractAndScale) {
  EXPECT_EQ(1_KiB + 512_B, Bytes{1536});
  EXPECT_EQ(1_KiB - 2_KiB, Bytes{-1024});
  EXPECT_EQ(3 * 1_MiB, Bytes{3 << 20});
  EXPECT_EQ(1_GiB * 4, 4_GiB);
  Bytes sum = 1_B;
  sum += 2_B;
  sum -= 5_B;
  EXPECT_EQ(sum, Bytes{-2});
}

TEST(BytesDeathTest, StopWhereTheyOverflow) {
  EXPECT_DEATH(static_cast<void>(Bytes{kMost} + 1_B), "byte count overflows");
  EXPECT_DEATH(static_cast<void>(Bytes{-kMost} - 2_B), "byte count overflows");
  EXPECT_DEATH(static_cast<void>(Bytes{kMost / 2 + 1} * 2), "byte count overflows");
}

TEST(Bytes, RoundUpToMultiples) {
  EXPECT_EQ(round_up(0_B, 512_B), 0_B);
  EXPECT_EQ(round_up(1_B, 512_B), 512_B);
  EXPECT_EQ(round_up(512_B, 512_B), 512_B);
  EXPECT_EQ(round_up(513_B, 512_B), 1_KiB);
  EXPECT_DEATH(static_cast<void>(round_up(Bytes{kMost}, 2_MiB)), "byte count overflows");
}

TEST(Address, DifferByBytesAndMoveByBytes) {
  const Address a{0x7f0000000000};
  EXPECT_EQ(a + 2_MiB, Address{0x7f0000200000});
  EXPECT_EQ((a + 2_MiB) - a, 2_MiB);
  EXPECT_LT(a, a + 1_B);
}

TEST(Id, OfOneKindIsNoIdOfAnother) {
  static_assert(!std::is_convertible_v<BufferId, BlockId>);
  static_assert(!std::is_convertible_v<StreamId, EventId>);
  EXPECT_LT(BlockId{1}, BlockId{2});
}

TEST(Expected, HoldsAValueOrAnError) {
  Expected<std::string> good{std::string{"yes"}};
  ASSERT_TRUE(good.has_value());
  EXPECT_EQ(*good, "yes");
  EXPECT_EQ(good->size(), 3U);
  EXPECT_EQ(std::move(good).value(), "yes");
  const Expected<std::string> bad{invalid_input("no")};
  EXPECT_FALSE(static_cast<bool>(bad));
  EXPECT_EQ(bad.error().message, "no");
  EXPECT_EQ(bad.error().code, ErrorCode::invalid_input);
}

TEST(ExpectedDeathTest, StopsWhereTheOtherIsAskedFor) {
  const Expected<int> bad{invalid_input("no")};
  const Expected<int> good{1};
  EXPECT_DEATH(static_cast<void>(bad.value()), "value\\(\\) of an error");
  EXPECT_DEATH(static_cast<void>(good.error()), "error\\(\\) of a value");
}

TEST(Error, PrintsItsPlaceAsFarAsItIsKnown) {
  EXPECT_EQ(to_string(invalid_input("broken")), "broken");
  EXPECT_EQ(to_string(invalid_input("broken", InputPosition{.file = "a.csv"})), "a.csv: broken");
  EXPECT_EQ(to_string(invalid_input("broken", InputPosition{.file = "a.csv", .line = 12})),
            "a.csv:12: broken");
  EXPECT_EQ(
      to_string(invalid_input("broken", InputPosition{.file = "a.csv", .line = 12, .column = 3})),
      "a.csv:12:3: broken");
  EXPECT_EQ(to_string(invalid_input("broken", InputPosition{.file = "a.pickle", .offset = 0})),
            "a.pickle: byte 0: broken");
}

TEST(CheckDeathTest, NamesTheConditionAndThePlace) {
  check(true, "fine");
  EXPECT_DEATH(check(false, "a free run overlaps a live block"),
               "bug at .*units_test.cpp:[0-9]+: a free run overlaps a live block");
}

}  // namespace
}  // namespace peakcast
