#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"

namespace peakcast::testing_support {
namespace {

using nlohmann::json;

TEST(Program, ListsItsCommandsAndNamesTheNearestOfAnUnknownOne) {
  const ProgramResult help = run_program({"--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.out.find("replay"), std::string::npos);
  const ProgramResult typo = run_program({"repaly"});
  EXPECT_EQ(typo.status, 2);
  EXPECT_NE(typo.err.find("the nearest is 'replay'"), std::string::npos) << typo.err;
  EXPECT_EQ(run_program({}).status, 2);
  EXPECT_EQ(run_program({"--version"}).status, 0);
  EXPECT_EQ(run_program({"-V"}).out, run_program({"--version"}).out);
  EXPECT_EQ(run_program({"help"}).out, help.out);
  EXPECT_EQ(run_program({"help", "replay"}).out, run_program({"replay", "--help"}).out);
  EXPECT_EQ(run_program({"help", "trace", "info"}).out,
            run_program({"trace", "info", "--help"}).out);
  EXPECT_NE(run_program({"help", "repaly"}).err.find("the nearest is 'replay'"), std::string::npos);
}

TEST(Program, HelpsWithEveryCommand) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"replay"},
                                             {"policies"},
                                             {"trace", "info"},
                                             {"trace", "validate"},
                                             {"trace", "convert"},
                                             {"trace", "diff"}}) {
    std::vector<std::string> asked = words;
    asked.emplace_back("--help");
    const ProgramResult result = run_program(asked);
    EXPECT_EQ(result.status, 0) << words.back();
    EXPECT_NE(result.out.find("example: peakcast"), std::string::npos) << words.back();
    EXPECT_NE(result.out.find("default: text"), std::string::npos) << words.back();
  }
}

TEST(Replay, ReproducesEveryRecordingThatShips) {
  for (const char* name : {"fuzz_006", "fuzz_048", "fuzz_057", "fuzz_060", "fuzz_072", "fuzz_075",
                           "pressure_fsdp1_llama_7b_w8_cap25", "bert_large_fp32_b8_s128"}) {
    const ProgramResult result = run_program(
        {"replay", data_file(std::string{name} + ".csv.zst"), "--verify", "--format", "json"});
    EXPECT_EQ(result.status, 0) << name << result.err;
    const json report = json::parse(result.out);
    EXPECT_EQ(report["verify"]["events"], report["verify"]["matched"]) << name;
    EXPECT_TRUE(report["verify"]["first_mismatch"].is_null()) << name;
    EXPECT_TRUE(report["verify"]["final_differences"].empty()) << name;
    EXPECT_EQ(report["verify"]["segments_different"], 0) << name;
  }
  const ProgramResult snapshot =
      run_program({"replay", data_file("bert_base_b4_s64_stacks.pickle.zst"), "--verify"});
  EXPECT_EQ(snapshot.status, 0) << snapshot.out;
}

TEST(Replay, ReproducesEveryRecordingAtHand) {
  const char* root = std::getenv("PEAKCAST_GROUNDTRUTH");
  const std::filesystem::path folder =
      root != nullptr
          ? root
          : std::filesystem::path{PEAKCAST_SOURCE_DIR} / ".." / "shared" / "groundtruth";
  if (!std::filesystem::exists(folder / "traces")) {
    GTEST_SKIP() << "no recordings beside the repository";
  }
  int count = 0;
  for (const char* part : {"traces", "fuzz", "attributed"}) {
    for (const auto& entry : std::filesystem::directory_iterator{folder / part}) {
      if (entry.path().extension() == ".zst") {
        ++count;
        const ProgramResult result = run_program({"replay", entry.path(), "--verify", "-q"});
        EXPECT_EQ(result.status, 0) << entry.path() << "\n" << result.out << result.err;
      }
    }
  }
  EXPECT_GT(count, 50);
}

TEST(Replay, PrintsTheContractAndTheSameBytesEveryTime) {
  const std::vector<std::string> words{"replay", data_file("fuzz_057.csv.zst"), "--format", "json"};
  const ProgramResult first = run_program(words);
  ASSERT_EQ(first.status, 1);  // two requests ran out of memory, here as when it was recorded
  EXPECT_EQ(first.out, run_program(words).out);
  const json report = json::parse(first.out);
  for (const char* key : {"schema_version", "version", "inputs", "policy", "peak", "final",
                          "counts", "oom", "fragmentation"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  for (const char* level : {"requested_bytes", "allocated_bytes", "active_bytes", "reserved_bytes",
                            "inactive_split_bytes"}) {
    EXPECT_TRUE(report["peak"][level].is_number_integer()) << level;
    EXPECT_TRUE(report["final"][level].is_number_integer()) << level;
  }
  for (const char* count :
       {"allocs", "frees", "segments_allocated", "segments_freed", "alloc_retries", "ooms"}) {
    EXPECT_TRUE(report["counts"][count].is_number_integer()) << count;
  }
  EXPECT_EQ(report["counts"]["ooms"], 31);
  EXPECT_GT(report["oom"]["requested_bytes"], 0);
}

TEST(Replay, WritesEventsThatReplayToTheSameEvents) {
  const ScratchFolder scratch;
  const std::string trace = data_file("fuzz_048.csv.zst");
  ASSERT_EQ(run_program({"replay", trace, "--events-out", scratch.file("a.csv"), "--alloc-conf",
                         "expandable_segments:True"})
                .status,
            0);
  const ProgramResult again =
      run_program({"replay", scratch.file("a.csv"), "--verify", "--policy", "pytorch@2.11",
                   "--alloc-conf", "expandable_segments:True", "--limit", "2GiB"});
  EXPECT_EQ(again.status, 0) << again.out << again.err;
  const ProgramResult piped = run_program(
      {"replay", trace, "--events-out", "-", "--alloc-conf", "expandable_segments:True"});
  EXPECT_EQ(piped.out, bytes_of_file(scratch.file("a.csv")));
}

TEST(Replay, ExitsOneWhereItDiffersFromTheRecording) {
  const ProgramResult result = run_program({"replay", data_file("fuzz_057.csv.zst"), "--verify",
                                            "--alloc-conf", "max_split_size_mb:32"});
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.out.find("first mismatch at event"), std::string::npos);
}

TEST(Replay, RefusesBadUsageWithOneLine) {
  const std::string trace = data_file("fuzz_057.csv.zst");
  for (const auto& [words, wanted] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"replay", trace, "--alloc-conf", "max_splitsize_mb:32"}, "max_split_size_mb"},
           {{"replay", trace, "--policy", "pytroch"}, "pytorch"},
           {{"replay", trace, "--policy", "pytorch@9"}, "9"},
           {{"replay", trace, "--limit", "5gibb"}, "the nearest is 'GiB'"},
           {{"replay", trace, "--addresses", "recrded"}, "the nearest is 'recorded'"},
           {{"replay", trace, "--polcy", "pytorch"}, "the nearest is '--policy'"},
           {{"replay"}, "TRACE is missing"},
           {{"replay", "no-such-file"}, "no-such-file"},
           {{"replay", "/"}, "/"},
           {{"trace", "convert", trace, "x.bin"}, "--to names the format"}}) {
    const ProgramResult result = run_program(words);
    EXPECT_EQ(result.status, 2) << result.out;
    EXPECT_NE(result.err.find(wanted), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(result.out.empty());
  }
}

TEST(Trace, ReadsStdinAndTellsThePlaceOfAFault) {
  const ProgramResult good = run_program({"trace", "info", "-"}, "alloc,1000,512,0\n");
  EXPECT_EQ(good.status, 0) << good.err;
  const ProgramResult bad =
      run_program({"trace", "info", "-"}, "alloc,1000,512,0\nfree_requested,2000,512,0\n");
  EXPECT_EQ(bad.status, 2);
  EXPECT_EQ(bad.err, "peakcast: error: <stdin>:2: frees 0x2000, which is not live\n");
  EXPECT_EQ(run_program({"trace", "info", "-"}, "").status, 2);
}

TEST(Trace, WritesBothFilesOrNone) {
  const ScratchFolder scratch;
  const std::string trace = data_file("fuzz_072.csv.zst");
  std::filesystem::create_directory(scratch.file("a.json"));
  const ProgramResult result = run_program({"trace", "convert", trace, scratch.file("a.csv")});
  EXPECT_EQ(result.status, 2) << result.err;
  EXPECT_FALSE(std::filesystem::exists(scratch.file("a.csv")));
  int left = 0;
  for (const auto& entry : std::filesystem::directory_iterator{scratch.file("")}) {
    left += entry.path().filename() == "a.json" ? 0 : 1;
  }
  EXPECT_EQ(left, 0) << "no temporary files";
}

TEST(Trace, KeepsModesAndLinks) {
  namespace fs = std::filesystem;
  const ScratchFolder scratch;
  const std::string trace = data_file("fuzz_072.csv.zst");
  ASSERT_EQ(run_program({"trace", "convert", trace, scratch.file("real.pkt")}).status, 0);
  fs::permissions(scratch.file("real.pkt"), fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("real.pkt", scratch.file("link.pkt"));
  const ProgramResult kept = run_program({"trace", "convert", trace, scratch.file("link.pkt")});
  EXPECT_EQ(kept.status, 2);
  EXPECT_NE(kept.err.find("--force"), std::string::npos) << kept.err;
  ASSERT_EQ(run_program({"trace", "convert", trace, scratch.file("link.pkt"), "--force"}).status,
            0);
  EXPECT_TRUE(fs::is_symlink(scratch.file("link.pkt")));
  EXPECT_EQ(fs::status(scratch.file("real.pkt")).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST(Replay, OverwritesNothingUnasked) {
  const ScratchFolder scratch;
  const std::string csv = scratch.file("in.csv");
  ASSERT_EQ(run_program({"trace", "convert", data_file("fuzz_072.csv.zst"), csv}).status, 0);
  const std::string before = bytes_of_file(csv);
  const ProgramResult result = run_program({"replay", csv, "--events-out", csv});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("--force"), std::string::npos) << result.err;
  EXPECT_EQ(bytes_of_file(csv), before);
}

TEST(Program, KeepsAnErrorInOneLine) {
  const ProgramResult result = run_program({"replay", "no\nsuch\x1b[31mfile"});
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_NE(result.err.find("no\\nsuch\\x1b[31mfile"), std::string::npos) << result.err;
}

TEST(Trace, AJsonThatIsNestedTooDeepIsAFault) {
  const ScratchFolder scratch;
  const std::string deep = std::string(50'000, '[') + std::string(50'000, ']');
  for (const auto& [name, words] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"deep.json", {"sweep"}}, {"config.json", {"predict", "--model"}}}) {
    const std::string file = scratch.file(name);
    std::ofstream{file} << "{\"run\": " << deep << "}";
    std::vector<std::string> asked = words;
    asked.push_back(file);
    const ProgramResult result = run_program(asked);
    EXPECT_EQ(result.status, 2) << name << result.err;
    EXPECT_NE(result.err.find("nested too deep"), std::string::npos) << result.err;
  }
}

/// 400 requests of 96 GiB: each fails after it has reserved an expandable segment's address space.
TEST(Replay, RunsOutOfAddressesAsItRunsOutOfMemory) {
  std::string csv;
  for (int i = 0; i < 400; ++i) {
    csv += "oom,1000,103079215104," + std::to_string(i % 10) + "\n";
  }
  const ProgramResult result =
      run_program({"replay", "-", "--alloc-conf", "expandable_segments:True"}, csv);
  EXPECT_LE(result.status, 1) << result.err;
  const ProgramResult large =
      run_program({"replay", "-", "--capacity", "9000000000GiB"}, "alloc,1000,512,0\n");
  EXPECT_EQ(large.status, 2) << large.err;
}

TEST(Trace, ConvertsThereAndBackWithoutLoss) {
  const ScratchFolder scratch;
  const std::string trace = data_file("fuzz_072.csv.zst");
  const auto run = [](const std::vector<std::string>& words) {
    ProgramResult result = run_program(words);
    EXPECT_EQ(result.status, 0) << result.err;
    return result;
  };
  run({"trace", "convert", trace, scratch.file("a.pkt")});
  run({"trace", "convert", scratch.file("a.pkt"), scratch.file("b.csv.gz")});
  run({"trace", "convert", scratch.file("b.csv.gz"), scratch.file("c.csv")});
  run({"trace", "convert", trace, scratch.file("d.csv")});
  EXPECT_EQ(bytes_of_file(scratch.file("c.csv")), bytes_of_file(scratch.file("d.csv")));
  EXPECT_EQ(bytes_of_file(scratch.file("c.json")), bytes_of_file(scratch.file("d.json")));
  // The sidecar went along: settings, limit and final figures still hold.
  run({"replay", scratch.file("c.csv"), "--verify"});
  run({"replay", scratch.file("a.pkt"), "--verify"});
  // Nothing is overwritten unasked.
  const ProgramResult again = run_program({"trace", "convert", trace, scratch.file("a.pkt")});
  EXPECT_EQ(again.status, 2);
  EXPECT_NE(again.err.find("--force"), std::string::npos);
  run({"trace", "convert", trace, scratch.file("a.pkt"), "--force"});
}

TEST(Trace, ValidatesRecordingsAndFindsWhatCannotHaveHappened) {
  EXPECT_EQ(run_program({"trace", "validate", data_file("fuzz_072.csv.zst")}).status, 0);
  const ProgramResult odd = run_program({"trace", "validate", "-", "--format", "json"},
                                        "segment_alloc,1000,2097152,0\n"
                                        "alloc,900000,512,0\n"
                                        "alloc,1000,1024,0\n"
                                        "alloc,1200,512,0\n");
  EXPECT_EQ(odd.status, 1);
  const json report = json::parse(odd.out);
  EXPECT_EQ(report["findings"][0]["event"], 1);
  EXPECT_EQ(report["findings"][0]["what"], "the block at 900000 lies outside the segments");
  EXPECT_EQ(report["findings"][1]["event"], 3);
}

TEST(Trace, ShowsWhereTwoProgramsPart) {
  const std::string trace = data_file("fuzz_072.csv.zst");
  EXPECT_EQ(run_program({"trace", "diff", trace, trace}).status, 0);
  const ProgramResult result = run_program(
      {"trace", "diff", trace, data_file("fuzz_048.csv.zst"), "--format", "json", "--by-phase"});
  EXPECT_EQ(result.status, 1);
  const json report = json::parse(result.out);
  EXPECT_FALSE(report["identical"]);
  EXPECT_EQ(report["only_a"].get<std::int64_t>() + report["matched"].get<std::int64_t>(),
            report["ops_a"].get<std::int64_t>());
}

TEST(Policies, TellsWhatDiffersBetweenReleases) {
  const ProgramResult result = run_program({"policies", "pytorch"});
  EXPECT_EQ(result.status, 0);
  for (const char* word :
       {"2.5", "2.6", "2.11", "max_non_split_rounding_mb", "large_segment_size_mb"}) {
    EXPECT_NE(result.out.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(run_program({"policies", "pytroch"}).status, 2);
}

TEST(Explain, AddsUpToReservedLessAllocated) {
  const auto ran =
      run_program({"explain", data_file("bert_large_fp32_b8_s128.csv.zst"), "--format", "json"});
  ASSERT_EQ(ran.status, 0) << ran.err;
  const json report = json::parse(ran.out);
  std::int64_t sum = 0;
  for (const auto& cause : report.at("causes")) {
    sum += cause.at("bytes").get<std::int64_t>();
  }
  const auto& peak = report.at("peak");
  EXPECT_EQ(sum, peak.at("reserved_bytes").get<std::int64_t>() -
                     peak.at("allocated_bytes").get<std::int64_t>());
  const auto replayed =
      run_program({"replay", data_file("bert_large_fp32_b8_s128.csv.zst"), "--format", "json"});
  EXPECT_EQ(peak.at("reserved_bytes"), json::parse(replayed.out).at("peak").at("reserved_bytes"));
  EXPECT_FALSE(report.at("alternatives").empty());
}

TEST(Explain, TakesADescribedRun) {
  const auto ran = run_program({"explain", "--model", "bert-tiny", "--batch", "2", "--seq", "64"});
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.out.find("serve nobody"), std::string::npos);
}

TEST(Explain, ReadsAMessage) {
  const auto ran = run_program(
      {"explain",
       "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 GiB of "
       "which 1.00 GiB is free. Of the allocated memory 40.00 GiB is allocated by PyTorch, and "
       "2.00 "
       "GiB is reserved by PyTorch but unallocated.",
       "--format", "json"});
  ASSERT_EQ(ran.status, 0) << ran.err;
  const json report = json::parse(ran.out);
  EXPECT_EQ(report.at("cause"), "fragmentation");
  EXPECT_EQ(report.at("reserved_bytes"), std::int64_t{42} << 30);
  EXPECT_EQ(run_program({"explain", "CUDA out of memory, alas"}).status, 2);
}

TEST(Explain, TakesOneSubject) {
  EXPECT_EQ(run_program({"explain"}).status, 2);
  EXPECT_EQ(run_program({"explain", data_file("fuzz_060.csv.zst"), "--model", "bert-tiny"}).status,
            2);
}

}  // namespace
}  // namespace peakcast::testing_support
