#include "sim/app/command_line.hpp"

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/app/command.hpp"

namespace peakcast::app {
namespace {

using namespace literals;

enum class Colour : std::uint8_t { red, green };
constexpr std::array<std::pair<std::string_view, Colour>, 2> kColours{
    {{"red", Colour::red}, {"green", Colour::green}}};

struct Paint {
  std::string wall{};
  std::vector<std::string> tools{};
  std::int64_t coats{2};
  std::optional<Bytes> bucket{};
  Colour colour{};
  bool dry{};
};

std::string fault_of(std::vector<std::string> words, Paint& paint) {
  CommandLine line{{"paint", "Paint a wall", "paint north --coats 3"}};
  line.positional("WALL", paint.wall, "which wall");
  line.number("coats", paint.coats, "how many", 1);
  line.size("bucket-size", paint.bucket, "how large");
  line.choice<Colour>("colour", kColours, paint.colour, "which");
  line.texts("tool", "NAME", paint.tools, "with what");
  line.flag("dry", paint.dry, "paint nothing");
  try {
    if (line.parse(words)) {
      return "done";
    }
  } catch (const Fault& fault) {
    return fault.what();
  }
  return line.echo().dump();
}

TEST(CommandLine, SetsVariablesAndEchoesEveryInputWithItsDefault) {
  Paint paint;
  EXPECT_EQ(fault_of({"north", "--coats=3", "--bucket-size", "1KiB", "--tool", "a", "--tool", "b",
                      "--colour", "green"},
                     paint),
            R"({"wall":"north","coats":3,"bucket_size_bytes":1024,"colour":"green",)"
            R"("tool":["a","b"],"dry":false})");
  EXPECT_EQ(paint.colour, Colour::green);
  EXPECT_EQ(paint.bucket, 1_KiB);
  Paint defaults;
  EXPECT_EQ(
      fault_of({"-"}, defaults),
      R"({"wall":"-","coats":2,"bucket_size_bytes":null,"colour":"red","tool":[],"dry":false})");
}

TEST(CommandLine, NamesTheNearestFlagAndValue) {
  Paint paint;
  EXPECT_EQ(fault_of({"north", "--coat", "3"}, paint),
            "paint: unknown flag '--coat'; the nearest is '--coats'");
  EXPECT_EQ(fault_of({"north", "--colour", "gren"}, paint),
            "--colour: unknown value 'gren'; the nearest is 'green'");
}

TEST(CommandLine, RefusesDuplicatesMissingWordsAndBadNumbers) {
  Paint paint;
  EXPECT_EQ(fault_of({"north", "--coats", "1", "--coats", "2"}, paint), "--coats is given twice");
  EXPECT_EQ(fault_of({}, paint), "WALL is missing ('peakcast paint --help' tells more)");
  EXPECT_EQ(fault_of({"a", "b"}, paint),
            "unexpected word 'b' ('peakcast paint --help' tells more)");
  EXPECT_EQ(fault_of({"a", "--coats", "0"}, paint), "--coats: 0 is below 1");
  EXPECT_EQ(fault_of({"a", "--coats", "1x"}, paint), "--coats: '1x' is not a whole number");
  EXPECT_EQ(fault_of({"a", "--coats", "99999999999999999999"}, paint),
            "--coats: '99999999999999999999' is too large");
  EXPECT_NE(fault_of({"a", "--coats"}, paint).find("--coats"), std::string::npos);
  EXPECT_NE(fault_of({"a", "--dry=yes"}, paint).find("--dry"), std::string::npos);
}

TEST(CommandLine, ShowsDefaultsAndAnExampleInItsHelp) {
  Paint paint;
  testing::internal::CaptureStdout();
  EXPECT_EQ(fault_of({"--help"}, paint), "done");
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_NE(help.find("--coats N"), std::string::npos);
  EXPECT_NE(help.find("(default: 2)"), std::string::npos);
  EXPECT_NE(help.find("example: peakcast paint north --coats 3"), std::string::npos);
}

TEST(CommandLine, NamesTheProgramThatIsRunning) {
  std::string wall;
  CommandLine line{{"paint", "Paint a wall", "paint north", "painter"}};
  line.positional("WALL", wall, "which");
  testing::internal::CaptureStdout();
  EXPECT_TRUE(line.parse(std::vector<std::string>{"--help"}).has_value());
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_NE(help.find("usage: painter paint WALL"), std::string::npos);
  EXPECT_NE(help.find("example: painter paint north"), std::string::npos);
}

}  // namespace
}  // namespace peakcast::app
