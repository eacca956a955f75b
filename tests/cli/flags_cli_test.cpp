// What flags say is what runs, or an error: no value is read as another, and none is ignored.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

json report_of(const Words& words) {
  const ProgramResult result = run_program(with(words, {"--format", "json"}));
  EXPECT_LE(result.status, 1) << result.err;
  return json::parse(result.out, nullptr, false);
}

void expect_error(const Words& words, const std::string& what) {
  const ProgramResult result = run_program(words);
  EXPECT_EQ(result.status, 2) << words.back() << "\n" << result.out;
  EXPECT_NE(result.err.find(what), std::string::npos) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

Words tiny() { return {"predict", "--model", "bert-tiny", "--batch", "2", "--seq", "32"}; }
std::string recording() { return data_file("fuzz_060.csv.zst"); }

TEST(Limit, MayBeAPartOfTheCard) {
  const json whole = report_of(tiny());
  const auto total = whole["gpu"]["total_bytes"].get<std::int64_t>();
  EXPECT_EQ(report_of(with(tiny(), {"--limit", "0.5"}))["inputs"]["limit_bytes"], total / 2);
  EXPECT_EQ(report_of(with(tiny(), {"--limit", "50%"}))["inputs"]["limit_bytes"], total / 2);
  EXPECT_EQ(report_of(with(tiny(), {"--limit", "1.0"}))["inputs"]["limit_bytes"], total);
  EXPECT_EQ(report_of(with(tiny(), {"--limit", "512"}))["inputs"]["limit_bytes"], 512);
  for (const char* odd : {"1.5", "101%", "0.5.5", "0.5x", "%"}) {
    expect_error(with(tiny(), {"--limit", odd}), "--limit");
  }
}

TEST(Limit, MayBeAPartOfATracesCard) {
  const Words half{"--capacity", "8GiB", "--limit", "0.25"};
  for (const char* command : {"replay", "compare", "explain"}) {
    const json report = report_of(with({command, recording(), "--policy", "pytorch"}, half));
    EXPECT_EQ(report["inputs"]["limit_bytes"], std::int64_t{2} << 30) << command;
  }
}

TEST(Limit, MayBeANumberInASweep) {
  const ScratchFolder scratch;
  const std::string spec = scratch.file("grid.json");
  std::ofstream{spec}
      << R"({"run": {"model": "bert-tiny", "seq": 32}, "grid": {"limit": [0.5, 0.0]}})";
  const ProgramResult result = run_program({"sweep", spec});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.out.find("\n0.5,bert-tiny,32,fits,"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("\n0.0,bert-tiny,32,out_of_memory,"), std::string::npos) << result.out;
}

TEST(Policy, MayRepeatAndItsSettingsMayHaveCommas) {
  const std::string split = "pytorch+max_split_size_mb:200,garbage_collection_threshold:0.8";
  const std::string rounded = "pytorch+roundup_power2_divisions:[256:1,512:2,>:4]";
  const std::vector<Words> ways{{"--policy", "pytorch", "--policy", split, "--policy", rounded},
                                {"--policy", "pytorch," + split + "," + rounded}};
  for (const Words& way : ways) {
    const json report = report_of(with({"compare", recording()}, way));
    ASSERT_EQ(report["policies"].size(), 3) << report;
    EXPECT_EQ(report["policies"][1]["policy"],
              "pytorch+max_split_size_mb:200+garbage_collection_threshold:0.8");
    EXPECT_EQ(report["policies"][2]["policy"], rounded);
  }
  EXPECT_LE(run_program({"replay", recording(), "--policy", split}).status, 1);
  expect_error(with(tiny(), {"--policy", "pytorch", "--policy", "buddy"}), "one policy");
  expect_error({"compare", recording(), "--policy", "pytorch,,buddy"}, "empty name");
}

TEST(Traces, TakeNoFlagsThatDescribeARun) {
  for (const char* command : {"compare", "explain"}) {
    expect_error({command, recording(), "--batch", "99"}, "--batch");
    expect_error({command, recording(), "--parallel", "fsdp1"}, "--parallel");
    const json report =
        report_of({command, recording(), "--gpu", "v100-16g", "--policy", "pytorch"});
    EXPECT_EQ(report["inputs"]["gpu"], "v100-16g");
    EXPECT_FALSE(report["inputs"].contains("batch")) << report["inputs"];
  }
  const json replayed = report_of({"replay", recording(), "--gpu", "v100-16g"});
  const json described = report_of(with(tiny(), {"--gpu", "v100-16g"}));
  EXPECT_EQ(replayed["inputs"]["settings"]["capacity_bytes"], described["gpu"]["total_bytes"])
      << replayed;
}

TEST(Environment, OfPyTorchsAllocatorIsNotReadAndSaidSo) {
  for (const char* name : {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"}) {
    ASSERT_EQ(::setenv(name, "expandable_segments:True", 1), 0);
    const ProgramResult told = run_program(tiny());
    const ProgramResult said = run_program(with(tiny(), {"--alloc-conf", "max_split_size_mb:64"}));
    ASSERT_EQ(::unsetenv(name), 0);
    EXPECT_NE(told.err.find(std::string{name} + " is set and not read"), std::string::npos);
    EXPECT_EQ(told.out, run_program(tiny()).out);
    EXPECT_EQ(said.err.find("is set"), std::string::npos) << said.err;
  }
}

TEST(Generate, ChecksWhatItIsToldOfAnAllocator) {
  const ScratchFolder scratch;
  const Words words{"trace", "generate", scratch.file("x.pkt"), "--model", "bert-tiny"};
  expect_error(with(words, {"--policy", "nope"}), "nope");
  expect_error(with(words, {"--alloc-conf", "x:y"}), "x");
  expect_error(with(words, {"--limit", "1B"}), "--limit");
  EXPECT_THROW(static_cast<void>(bytes_of_file(scratch.file("x.pkt"))), std::runtime_error);
  EXPECT_EQ(run_program(with(words, {"--policy", "pytorch"})).status, 0);
}

TEST(TraceInfo, AsCsvIsForPrograms) {
  const ProgramResult result = run_program({"trace", "info", recording(), "--format", "csv"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out.substr(0, 10), "key,value\n");
  const json report = report_of({"trace", "info", recording()});
  EXPECT_NE(
      result.out.find("\npeak.requested_bytes," + report["peak"]["requested_bytes"].dump() + "\n"),
      std::string::npos)
      << result.out;
  EXPECT_EQ(result.out.find("MiB"), std::string::npos);
}

TEST(Predict, AsCsvHasARowForARunThatNeverBegan) {
  const ProgramResult result =
      run_program(with(tiny(), {"--limit", "4MiB", "--format", "csv", "--iterations", "1"}));
  EXPECT_EQ(result.status, 1) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 2) << result.out;
  EXPECT_NE(result.out.find(",out_of_memory\n"), std::string::npos) << result.out;
}

TEST(Predict, OfACardThatShardsContextsFillDoesNotFit) {
  const ProgramResult result =
      run_program({"predict", "--model", "bert-base", "--batch", "4", "--capacity", "1GiB"});
  EXPECT_EQ(result.status, 1) << result.err;
}

TEST(Help, SaysHowManyTracesAreTaken) {
  EXPECT_NE(run_program({"compare", "--help"}).out.find("compare [TRACE] [FLAGS]"),
            std::string::npos);
  expect_error({"compare", recording(), recording()}, "unexpected word");
}

TEST(OutOfMemory, OfAnotherLibrarysTraceIsNotPyTorchs) {
  const std::string log =
      "Thread,Time,Action,Pointer,Size,Stream\n0,00:00:00:000001,allocate,0x1,1073741824,0\n";
  for (const char* policy : {"pytorch", "rmm-pool"}) {
    const ProgramResult result =
        run_program({"replay", "-", "--capacity", "512MiB", "--policy", policy}, log);
    EXPECT_EQ(result.status, 1) << result.err;
    EXPECT_NE(result.out.find("Tried to allocate"), std::string::npos) << result.out;
    EXPECT_EQ(result.out.find("PyTorch"), std::string::npos) << result.out;
  }
}

TEST(Checkpointing, SaysThatACacheHasNoEffect) {
  const Words words{"predict", "--model",       "llama-1b", "--set", "num_hidden_layers=1",
                    "--set",   "use_cache=true"};
  EXPECT_NE(run_program(with(words, {"--checkpoint", "full"})).err.find("use_cache"),
            std::string::npos);
  EXPECT_EQ(run_program(words).err.find("use_cache"), std::string::npos);
}

// Of 4 layers of llama-1b 2.4 GiB are parameters in fp32; a rank of 64 keeps 38 MiB of them.
TEST(Zero3, OfAModelLargerThanTheCardSaysThatZeroInitIsNotModelled) {
  const ProgramResult whole =
      run_program({"predict", "--model", "llama-1b", "--set", "num_hidden_layers=4", "--seq", "32",
                   "--parallel", "zero3", "--world", "64", "--limit", "1GiB"});
  EXPECT_EQ(whole.status, 1) << whole.err;
  EXPECT_NE(whole.out.find("phase to_device"), std::string::npos) << whole.out;
  EXPECT_NE(whole.out.find("zero.Init"), std::string::npos) << whole.out;
}

}  // namespace
}  // namespace peakcast::testing_support
