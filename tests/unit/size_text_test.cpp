#include "sim/core/size_text.hpp"

#include <array>
#include <string_view>

#include <gtest/gtest.h>

#include "sim/core/nearest.hpp"

namespace peakcast {
namespace {

using namespace literals;

TEST(ParseSize, ReadsPlainBytesAndBothKindsOfUnits) {
  EXPECT_EQ(parse_size("1048576").value(), 1_MiB);
  EXPECT_EQ(parse_size("512B").value(), 512_B);
  EXPECT_EQ(parse_size("24GiB").value(), 24_GiB);
  EXPECT_EQ(parse_size("24G").value(), 24_GiB);
  EXPECT_EQ(parse_size("80GB").value(), Bytes{80'000'000'000});
  EXPECT_EQ(parse_size("1.5GiB").value(), 1536_MiB);
  EXPECT_EQ(parse_size("9223372036854775807").value(), Bytes{INT64_MAX});
}

TEST(ParseSize, RoundsAFractionDownToAWholeByte) {
  // 0.1 x 2^30 = 107374182.4
  EXPECT_EQ(parse_size("0.1GiB").value(), Bytes{107'374'182});
}

TEST(ParseSize, RefusesWhatItDoesNotKnowAndNamesTheNearestUnit) {
  for (const std::string_view bad :
       {"", "-1", "G", "1.", ".5G", "1  GiB", "1 ", " 1", "1GiB ", "1e9", "0x10",
        "9223372036854775808", "8388608T", "99999999999999999999999", "1.0000000000001G"}) {
    EXPECT_FALSE(parse_size(bad).has_value()) << bad;
  }
  EXPECT_EQ(parse_size("24gibb").error().message,
            "bad size '24gibb': unknown unit 'gibb'; the nearest is 'GiB'");
  EXPECT_EQ(parse_size("24Q").error().message,
            "bad size '24Q': unknown unit 'Q'; there are: B, K, KiB, KB, M, MiB, MB, G, GiB, "
            "GB, T, TiB, TB");
}

TEST(ParseSize, ReadsUnitsAsPeopleWriteThem) {
  EXPECT_EQ(parse_size("24 GB").value(), Bytes{24'000'000'000});
  EXPECT_EQ(parse_size("24 gib").value(), 24_GiB);
  EXPECT_EQ(parse_size("24g").value(), 24_GiB);
}

TEST(SizeText, PrintsTwoDecimalsInTheLargestFittingUnit) {
  EXPECT_EQ(size_text(0_B), "0 B");
  EXPECT_EQ(size_text(1023_B), "1023 B");
  EXPECT_EQ(size_text(1536_B), "1.50 KiB");
  EXPECT_EQ(size_text(290_MiB), "290.00 MiB");
  EXPECT_EQ(size_text(16_GiB), "16.00 GiB");
  EXPECT_EQ(size_text(Bytes{-1536}), "-1.50 KiB");
  // 2^30 - 1 bytes are 1024.00 MiB when rounded: the next unit says it better.
  EXPECT_EQ(size_text(Bytes{(1 << 30) - 1}), "1.00 GiB");
}

TEST(Nearest, CountsASwapAsOneEditAndGivesTiesToTheFirst) {
  constexpr std::array<std::string_view, 3> kWords{"policy", "format", "limit"};
  EXPECT_EQ(nearest("polciy", kWords), "policy");
  EXPECT_EQ(nearest("FORMT", kWords), "format");
  constexpr std::array<std::string_view, 2> kTied{"ab", "ac"};
  EXPECT_EQ(nearest("a", kTied), "ab");
  EXPECT_EQ(nearest("a", {}), "");
}

TEST(UnknownWord, NamesTheNearestOnlyWhereItIsNear) {
  constexpr std::array<std::string_view, 3> kFlags{"--format", "--policy", "--limit"};
  // 4 of 6 letters differ.
  EXPECT_EQ(unknown_word("flag", "--lora", kFlags),
            "unknown flag '--lora'; there are: --format, --policy, --limit");
  EXPECT_EQ(unknown_word("flag", "--polciy", kFlags),
            "unknown flag '--polciy'; the nearest is '--policy'");
  EXPECT_EQ(unknown_word("flag", "--limit-mb", kFlags),
            "unknown flag '--limit-mb'; the nearest is '--limit'");
}

TEST(UnknownWord, ListsWhatGoesOnFromIt) {
  constexpr std::array<std::string_view, 4> kCards{"a10-24g", "a100-40g", "a100-80g", "h100-80g"};
  EXPECT_EQ(unknown_word("GPU", "A100", kCards),
            "unknown GPU 'A100'; there are: a100-40g, a100-80g");
  // Another number is another card, however near its name.
  EXPECT_EQ(near("h200-80g", kCards), "");
  EXPECT_EQ(near("H100_80g", kCards), "h100-80g");
}

}  // namespace
}  // namespace peakcast
