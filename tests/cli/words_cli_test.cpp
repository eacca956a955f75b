#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

TEST(Words, AreUnderstoodAsPeopleWriteThem) {
  const Words plain{"predict", "--model",  "bert-large", "--precision", "bf16",
                    "--gpu",   "a100-80g", "--limit",    "24GB",        "--seq",
                    "512",     "--format", "json"};
  const ProgramResult wanted = run_program(plain);
  EXPECT_EQ(wanted.status, 0) << wanted.err;
  const ProgramResult got =
      run_program({"predict", "--model", "google-bert/bert-large-uncased", "--precision", "BF16",
                   "--gpu", "A100 80GB", "--limit", "24 GB", "--seq", "0.5k", "--format", "JSON"});
  EXPECT_EQ(got.status, 2);  // half a thousand is no length
  EXPECT_NE(got.err.find("'0.5k' is not a whole number"), std::string::npos) << got.err;
  EXPECT_EQ(run_program({"predict", "--model", "BERT-Large", "--precision", "bfloat16", "--gpu",
                         "A100 80GB", "--limit", "24 gb", "--seq", "512", "--format", "JSON"})
                .out,
            wanted.out);
}

TEST(Words, AThousandTokensAre1024) {
  const ProgramResult result = run_program({"predict", "--model", "Qwen/Qwen2-0.5B", "--batches",
                                            "1x1k,2x512", "--gpu", "rtx4090", "--format", "json"});
  const json report = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << result.err;
  EXPECT_EQ(report["iterations"][0]["seq"], 1024);
  EXPECT_EQ(report["inputs"]["model"], "qwen2-0.5b");
  EXPECT_EQ(report["inputs"]["gpu"], "rtx4090-24g");
}

TEST(Words, ARefusalSaysWhatIsMeantAndNothingFarFetched) {
  for (const auto& [words, wanted] : std::vector<std::pair<Words, std::string>>{
           {{"predict", "--model", "phi3"}, "phi-3.5-mini, phi-4, phi-4-mini"},
           {{"predict", "--model", "llama-3.1-7b"}, "llama-3.1-8b"},
           {{"predict", "--model", "whisper-large"}, "not built in"},
           {{"predict", "--model", "gpt2", "--parallel", "fsdp"}, "there are: fsdp1, fsdp2"},
           {{"predict", "--model", "gpt2", "--batch-size", "4"}, "the nearest is '--batch'"},
           {{"gpus", "--lora", "8"}, "there are: --help"}}) {
    const ProgramResult result = run_program(words);
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.err.find(wanted), std::string::npos) << result.err;
  }
  EXPECT_EQ(run_program({"gpus", "--lora", "8"}).err.find("nearest"), std::string::npos);
}

}  // namespace
}  // namespace peakcast::testing_support
