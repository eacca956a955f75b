// What a planner asks of a day, each answered by one command at a glance.
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

std::string line_with(const std::string& text, const std::string& part) {
  const std::size_t at = text.find(part);
  if (at == std::string::npos) {
    return "";
  }
  const std::size_t begin = text.rfind('\n', at) + 1;
  return text.substr(begin, text.find('\n', at) - begin);
}

std::vector<json> rows_of(const Words& sweep) {
  const ProgramResult result = run_program(with(sweep, {"--format", "json"}));
  EXPECT_EQ(result.status, 0) << result.err;
  std::vector<json> rows;
  for (std::size_t at = 0; at < result.out.size(); at = result.out.find('\n', at) + 1) {
    rows.push_back(json::parse(result.out.substr(at, result.out.find('\n', at) - at)));
  }
  return rows;
}

TEST(Questions, WhichCardsFineTuneAnEightBillionModelAtEightThousandTokens) {
  const Words sweep{"sweep",
                    "--model",
                    "meta-llama/Llama-3.1-8B",
                    "--lora",
                    "16",
                    "--seq",
                    "8k",
                    "--checkpoint",
                    "full",
                    "--gpu",
                    "a100-40g,h100,h200,rtx4090"};
  const std::vector<json> rows = rows_of(sweep);
  ASSERT_EQ(rows.size(), 4);
  // 8.03 G parameters of two bytes are 15 GiB; logits of 8192 x 128256 in fp32 3.9 GiB, several
  // times: more than a 24 GB card has.
  EXPECT_EQ(rows[3]["verdict"], "out_of_memory");
  EXPECT_EQ(rows[2]["verdict"], "fits");
  const std::string text = run_program(with(sweep, {"--format", "text"})).out;
  EXPECT_NE(line_with(text, "rtx4090").find("OUT OF MEMORY"), std::string::npos) << text;
  EXPECT_NE(line_with(text, "h200").find("FITS"), std::string::npos) << text;
}

TEST(Questions, TheLargestBatchOfBertLargeOnTwentyFourGigabytes) {
  const Words fit{"fit",   "--model",  "BERT-large", "--seq", "512",   "--precision", "bf16-amp",
                  "--gpu", "RTX 4090", "--vary",     "batch", "--max", "64"};
  const json report = json::parse(run_program(with(fit, {"--format", "json"})).out);
  const auto largest = report["largest_fit"].get<std::int64_t>();
  EXPECT_GT(largest, 16);
  EXPECT_EQ(report["first_oom"], largest + 1);
  EXPECT_NE(run_program(fit).out.find("FITS up to batch " + std::to_string(largest) + "\n"),
            std::string::npos);
}

TEST(Questions, WhatExpandableSegmentsBring) {
  const ProgramResult result = run_program(
      {"compare", "--model", "bert-large", "--batches", "4x512,16x128,8x256,3x512", "--iterations",
       "8", "--policy", "pytorch,pytorch+expandable_segments:True", "--format", "json"});
  const json policies = json::parse(result.out)["policies"];
  ASSERT_EQ(policies.size(), 2);
  EXPECT_NE(policies[0]["peak_reserved_bytes"], policies[1]["peak_reserved_bytes"]);
}

TEST(Questions, WhatCheckpointingCostsAndSaves) {
  const std::vector<json> rows =
      rows_of({"sweep", "--model", "llama-3.2-1b", "--seq", "4k", "--checkpoint", "none,full"});
  ASSERT_EQ(rows.size(), 2);
  EXPECT_LT(rows[1]["peak_allocated_bytes"], rows[0]["peak_allocated_bytes"]);
  EXPECT_GT(rows[1]["last_iteration_ns"], rows[0]["last_iteration_ns"]);
}

TEST(Questions, OneCardAgainstAnother) {
  const Words sweep{"sweep", "--model", "llama-3.2-1b", "--seq", "2k",           "--precision",
                    "bf16",  "--batch", "1..8",         "--gpu", "a100-40g,l40s"};
  const std::vector<json> rows = rows_of(sweep);
  ASSERT_EQ(rows.size(), 8);
  EXPECT_EQ(rows[1]["point"], (json{{"batch", 1}, {"gpu", "l40s"}}));
  // 48 GB hold what 40 GB hold, and more slowly: 864 GB/s to 1555.
  for (std::size_t i = 0; i < rows.size(); i += 2) {
    if (rows[i]["verdict"] != "out_of_memory") {
      EXPECT_NE(rows[i + 1]["verdict"], "out_of_memory") << i;
      EXPECT_LT(rows[i]["last_iteration_ns"], rows[i + 1]["last_iteration_ns"]) << i;
    }
  }
}

TEST(Questions, AGridForASpreadsheet) {
  const ProgramResult result =
      run_program({"sweep", "--model", "bert-large", "--batch", "8,16", "--seq", "128..512"});
  EXPECT_EQ(result.status, 0);
  const std::string head = result.out.substr(0, result.out.find('\n'));
  for (const char* column : {"batch", "seq", "model", "verdict", "peak_device_gib"}) {
    EXPECT_NE(("," + head + ",").find(std::string{","} + column + ","), std::string::npos) << head;
  }
}

TEST(Questions, HowSure) {
  const ProgramResult result =
      run_program({"predict", "--model", "bert-large", "--batch", "8", "--seq", "512"});
  EXPECT_NE(line_with(result.out, "how sure: ").find(" recorded runs are like this one"),
            std::string::npos)
      << result.out;
}

TEST(Questions, WhatSharedMemoryALoaderNeeds) {
  const Words predict{"predict",    "--model",
                      "bert-large", "--batch",
                      "64",         "--seq",
                      "512",        "--gpu",
                      "h200",       "--precision",
                      "bf16",       "--loader-workers",
                      "8",          "--prefetch-factor",
                      "4",          "--pin-memory"};
  const json host = json::parse(run_program(with(predict, {"--format", "json"})).out)["host"];
  // Four tensors of 64 x 512 whole numbers, 64 pages each; 8 x 4 batches, and 32 semaphores.
  EXPECT_EQ(host["shared_memory_bytes"], (32 * 4 * 64 + 32) * 4096);
  EXPECT_EQ(host["pinned_bytes"], 33 * 4 * 262144);
  const std::string text = run_program(predict).out;
  EXPECT_NE(text.find("docker run --gpus all --shm-size=64m --memory="), std::string::npos) << text;
  EXPECT_EQ(run_program({"predict", "--model", "gpt2", "--prefetch-factor", "4"}).status, 2);
}

TEST(Questions, WhyNvidiaSmiShowsMore) {
  const ProgramResult help = run_program({"--help"});
  EXPECT_NE(line_with(help.out, "  nvidia-smi").find("shows more"), std::string::npos);
  // And how much: reserved, and what lies outside the allocator, up to what is on the card.
  const ProgramResult result =
      run_program({"predict", "--model", "bert-tiny", "--batch", "4", "--seq", "64"});
  EXPECT_NE(line_with(result.out, "+ context"), "");
  EXPECT_NE(line_with(result.out, "= on the card"), "");
}

}  // namespace
}  // namespace peakcast::testing_support
