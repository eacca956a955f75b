#include "cuda_check/pool_program.hpp"

#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>

namespace peakcast {
namespace {

using namespace literals;

constexpr const char* kProgram =
    "# waited,idle\n"
    "allocate,0,1048576,0,0,1,0,1\n"
    "allocate,1,512,1,2048,1,2048,1\n"
    "free,0,0\n"
    "wait\n"
    "trim,0\n"
    "free,1,1\n";

/// `text` by way of a file of this process's own: tests run beside one another.
Expected<PoolProgram> read(const std::string& text) {
  const std::filesystem::path path = std::filesystem::path{::testing::TempDir()} /
                                     ("pool_program_" + std::to_string(::getpid()) + ".csv");
  std::ofstream{path, std::ios::binary} << text;
  auto program = read_pool_program(path.string());
  std::filesystem::remove(path);
  return program;
}

TEST(PoolProgram, IsWrittenAsItWasRead) {
  const auto program = read(kProgram);
  ASSERT_TRUE(program) << to_string(program.error());
  EXPECT_EQ(program->steps.size(), 6U);
  EXPECT_EQ(program->streams, 2U);
  ASSERT_TRUE(program->answers.contains(PoolPace::idle));
  EXPECT_EQ(program->answers.at(PoolPace::idle)[1],
            (PoolAnswer{.offset = 1_MiB, .reserved = 32_MiB}));
  EXPECT_EQ(pool_program_text(*program), kProgram);
}

TEST(PoolProgram, IsSimulatedAtEachPace) {
  const auto program = read(kProgram);
  ASSERT_TRUE(program);
  for (const auto& [pace, answers] : program->answers) {
    EXPECT_EQ(simulate_pool_program(*program, pace, {.name = "card", .total = 1_GiB}), answers);
  }
  EXPECT_FALSE(simulate_pool_program(*program, PoolPace::idle, {.name = "card", .total = 16_MiB}));
}

TEST(PoolProgram, TheCardOfATrainingPassesWhatTheProgramSays) {
  // The first free has been passed, so the second range may take that place and what lies behind;
  // the second free has not, so the third may not.
  const auto program = read(
      "# trained\n"
      "allocate,0,33554432,0,0,1\n"
      "free,0,0\n"
      "passed,1\n"
      "allocate,1,67108864,0,0,2\n"
      "free,1,0\n"
      "passed,1\n"
      "allocate,2,134217728,0,131072,6\n");
  ASSERT_TRUE(program) << to_string(program.error());
  EXPECT_EQ(simulate_pool_program(*program, PoolPace::trained, {.name = "card", .total = 1_GiB}),
            program->answers.at(PoolPace::trained));
  EXPECT_EQ(pool_program_text(*program), pool_program_text(*read(pool_program_text(*program))));
}

TEST(PoolProgram, BadRowsAreOneErrorWithTheirLine) {
  for (const char* row :
       {"", "allocate,0,0,0", "allocate,0,-1,0", "allocate,0,1,64", "allocate,0,99999999999999,0",
        "allocate,0,1", "allocate,0,1,0,0,1", "free,7,0", "free,0,0,0", "wait,1", "trim", "trim,x",
        "trim,18446744073709551616", "passed", "passed,-1", "passed,1,1", "grow,1"}) {
    const auto program = read(std::string{"# \n"} + row + "\n");
    ASSERT_FALSE(program) << row;
    EXPECT_NE(to_string(program.error()).find(".csv:2"), std::string::npos)
        << to_string(program.error());
  }
  EXPECT_FALSE(read("allocate,0,1,0\n"));
  EXPECT_FALSE(read("# waited,waited\n"));
  EXPECT_FALSE(read("# \nallocate,0,1,0\nallocate,0,1,0\n"));
  EXPECT_FALSE(read("# \nwait"));
  EXPECT_FALSE(read_pool_program("/nowhere/program.csv"));
}

}  // namespace
}  // namespace peakcast
