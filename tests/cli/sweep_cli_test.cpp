#include <algorithm>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

Words grid_by_flags() {
  return {"sweep",  "--model", "bert-tiny",           "--batch", "1,2,4", "--seq",
          "16..64", "--gpu",   "a100-40g,rtx4090-24g"};
}

// 3 x 3 x 2 points, the last flag fastest.
constexpr const char* kGrid = R"({"run": {"model": "bert-tiny"},
  "grid": {"batch": [1, 2, 4], "seq": [16, 32, 64], "gpu": ["a100-40g", "rtx4090-24g"]}})";

TEST(Sweep, FlagsGiveTheRowsOfTheSameGridInAFile) {
  const ScratchFolder folder;
  std::ofstream{folder.file("grid.json")} << kGrid;
  for (const Words& format : {Words{}, Words{"--format", "csv"}, Words{"--format", "json"}}) {
    const ProgramResult flags = run_program(with(grid_by_flags(), format));
    const ProgramResult file = run_program(with({"sweep", folder.file("grid.json")}, format));
    EXPECT_EQ(flags.status, 0) << flags.err;
    EXPECT_EQ(flags.out, file.out);
    EXPECT_EQ(std::count(flags.out.begin(), flags.out.end(), '\n'),
              format.empty() || format.back() == "csv" ? 19 : 18);
  }
  EXPECT_EQ(run_program(with(grid_by_flags(), {"--jobs", "1"})).out,
            run_program(with(grid_by_flags(), {"--jobs", "5"})).out);
}

TEST(Sweep, RowsSayWhatPredictSaysAndWhatAllPointsShare) {
  const ProgramResult rows = run_program(
      {"sweep", "--model", "bert-tiny", "--batch", "4,8", "--seq", "64", "--format", "json"});
  const json row = json::parse(rows.out.substr(0, rows.out.find('\n')));
  const json report = json::parse(run_program({"predict", "--model", "bert-tiny", "--batch", "4",
                                               "--seq", "64", "--format", "json"})
                                      .out);
  EXPECT_EQ(row["point"], (json{{"batch", 4}}));
  EXPECT_EQ(row["peak_reserved_bytes"], report["peak"]["reserved_bytes"]);
  EXPECT_EQ(row["peak_device_bytes"], report["peak"]["device_bytes"]);
  EXPECT_EQ(row["last_iteration_ns"], report["iterations"][2]["duration_ns"]);
  const ProgramResult csv =
      run_program({"sweep", "--model", "bert-tiny", "--batch", "4,8", "--seq", "64"});
  EXPECT_EQ(csv.out.substr(0, csv.out.find('\n')),
            "batch,model,seq,verdict,peak_allocated_bytes,peak_reserved_bytes,peak_device_bytes,"
            "oom_iteration,oom_phase,last_iteration_ns,spare_bytes,retries,peak_allocated_gib,"
            "peak_reserved_gib,peak_device_gib,error,engine");
  EXPECT_EQ(csv.out.find("\n4,bert-tiny,64,fits,"), csv.out.find('\n'));
}

TEST(Sweep, RangesDoubleOrStepAndCardsMayBeAll) {
  const auto first_column = [](const ProgramResult& result) {
    std::string column;
    std::size_t at = result.out.find('\n') + 1;
    while (at < result.out.size()) {
      column += result.out.substr(at, result.out.find(',', at) - at) + " ";
      at = result.out.find('\n', at) + 1;
    }
    return column;
  };
  const Words words{"sweep", "--model", "bert-tiny", "--seq", "16", "--batch"};
  EXPECT_EQ(first_column(run_program(with(words, {"1..6"}))), "1 2 4 ");
  EXPECT_EQ(first_column(run_program(with(words, {"2..8:3"}))), "2 5 8 ");
  EXPECT_EQ(first_column(run_program(with(words, {"1,4..8,3"}))), "1 4 8 3 ");
  const ProgramResult cards = run_program(with(words, {"1", "--gpu", "all"}));
  EXPECT_NE(first_column(cards).find("a100-40g a100-80g "), std::string::npos) << cards.out;
}

TEST(Sweep, AFlagThatStandsTwiceHasAllItsValues) {
  const Words base{"sweep", "--model", "bert-tiny", "--seq", "32"};
  const ProgramResult once = run_program(with(base, {"--policy", "pytorch,gmlake,bfc"}));
  EXPECT_EQ(once.status, 0) << once.err;
  EXPECT_EQ(run_program(with(base, {"--policy", "pytorch,gmlake", "--policy", "bfc"})).out,
            once.out);
  const Words set{"--set", "num_hidden_layers=1", "--set", "vocab_size=64"};
  const ProgramResult changed = run_program(with(base, set));
  EXPECT_EQ(changed.status, 0) << changed.err;
  EXPECT_EQ(std::count(changed.out.begin(), changed.out.end(), '\n'), 2);
}

TEST(Sweep, ANumberThatNoDoubleHoldsIsNamedWithItsPlace) {
  const ScratchFolder scratch;
  const std::string spec = scratch.file("grid.json");
  std::ofstream{spec} << R"({"run": {"model": "bert-tiny", "batch": 1e999}, "grid": {}})";
  const ProgramResult result = run_program({"sweep", spec});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("byte 40: a number that no double holds"), std::string::npos)
      << result.err;
}

TEST(Sweep, GoesOnWhereAFileWasCut) {
  const ScratchFolder folder;
  for (const Words& format : {Words{}, Words{"--format", "json"}}) {
    const std::string file = folder.file("rows" + std::to_string(format.size()));
    const std::string whole = run_program(with(grid_by_flags(), format)).out;
    const Words resumed = with(with(grid_by_flags(), {"--resume", file}), format);
    // Not there yet, cut in the head, in a row, behind one, and complete.
    for (const std::size_t kept :
         {std::size_t{0}, std::size_t{9}, whole.size() / 2, whole.find('\n') + 1, whole.size()}) {
      std::ofstream{file, std::ios::binary} << whole.substr(0, kept);
      const ProgramResult result = run_program(resumed);
      EXPECT_EQ(result.status, 0) << result.err;
      EXPECT_TRUE(result.out.empty());
      EXPECT_EQ(bytes_of_file(file), whole) << kept;
    }
    const ProgramResult other = run_program(
        with({"sweep", "--model", "bert-tiny", "--batch", "7,8", "--resume", file}, format));
    EXPECT_EQ(other.status, 2);
    EXPECT_NE(other.err.find("line 1 is not of this grid"), std::string::npos) << other.err;
    EXPECT_EQ(bytes_of_file(file), whole);
  }
}

TEST(Sweep, PointsWithoutAnAnswerAreRowsAndAnErrorAtTheEnd) {
  const ScratchFolder folder;
  const Words words{"sweep", "--model", "bert-large", "--batch", "1", "--seq", "512,1024"};
  const ProgramResult result = run_program(words);
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("1 of 2 points have no answer; the first: a sequence of 1024"),
            std::string::npos)
      << result.err;
  const std::string row = result.out.substr(result.out.rfind("\n1024") + 1);
  const std::string head = result.out.substr(0, result.out.find('\n'));
  // As many cells before the error as there are names before "error"; the engine stays empty.
  EXPECT_EQ(
      std::count(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(row.find("a seq")), ','),
      std::count(head.begin(), head.end(), ',') - 1);
  // So it is where the rows were there before.
  const Words resumed = with(words, {"--resume", folder.file("rows")});
  EXPECT_EQ(run_program(resumed).status, 2);
  EXPECT_EQ(run_program(resumed).err, result.err);
}

TEST(Sweep, TextIsATableThatFitsAPage) {
  const ProgramResult result = run_program(with(grid_by_flags(), {"--format", "text"}));
  EXPECT_EQ(result.out.find("model bert-tiny\n\nbatch  seq  gpu "), 0) << result.out;
  EXPECT_NE(result.out.find("FITS"), std::string::npos);
  std::size_t at = 0;
  while (at < result.out.size()) {
    const std::size_t end = result.out.find('\n', at);
    EXPECT_LE(end - at, 80) << result.out.substr(at, end - at);
    at = end + 1;
  }
}

TEST(Sweep, RefusesWhatIsNoGrid) {
  const ScratchFolder folder;
  std::ofstream{folder.file("grid.json")} << kGrid;
  for (const auto& [words, wanted] : std::vector<std::pair<Words, std::string>>{
           {{"sweep"}, "sweep needs a grid"},
           {{"sweep", folder.file("grid.json"), "--batch", "1,2"}, "exclude one another"},
           {{"sweep", "--model", "gpt2", "--batch", "1,,2"}, "has an empty value"},
           {{"sweep", "--model", "gpt2", "--seq", "512..128"}, "ends before it begins"},
           {{"sweep", "--model", "gpt2", "--seq", "128..x"}, "is not FROM..TO"},
           {{"sweep", "--model", "gpt2", "--batch", "1..1000000000:1"}, "values"},
           {{"sweep", "--model", "gpt2", "--bacth", "1"}, "the nearest is '--batch'"}}) {
    const ProgramResult result = run_program(words);
    EXPECT_EQ(result.status, 2) << result.out;
    EXPECT_NE(result.err.find(wanted), std::string::npos) << result.err;
  }
}

}  // namespace
}  // namespace peakcast::testing_support
