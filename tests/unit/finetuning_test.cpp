// What fine-tuning changes in a generated program: which parameters have gradients and states.
#include <string>

#include <gtest/gtest.h>

#include "workloads/generate.hpp"

namespace peakcast {
namespace {

RunSpec small_run() {
  RunSpec spec;
  spec.model = R"({"model_type": "qwen3", "vocab_size": 64, "hidden_size": 32,
      "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
      "intermediate_size": 64})";
  spec.shapes = {{1, 8}};
  spec.iterations = 1;
  return spec;
}

/// Bytes of what stays after the run in one category.
std::int64_t bytes_of(const RunSpec& spec, Category category) {
  const auto trace = generate(spec);
  EXPECT_TRUE(trace) << (trace ? "" : to_string(trace.error()));
  if (!trace) {
    return -1;
  }
  std::int64_t bytes = 0;
  for (const Op& op : trace->ops) {
    if (op.kind == OpKind::allocate &&
        static_cast<Category>(op.flags & kCategoryMask) == category) {
      bytes += op.value;
    }
  }
  return bytes;
}

std::string error_of(const RunSpec& spec) {
  const auto trace = generate(spec);
  return trace ? "no error" : to_string(trace.error());
}

// Rank 4 on q_proj (32 to 32) and v_proj (32 to 16) of two layers: 2 x 4 x (64 + 48) elements in
// fp32, and AdamW keeps two states of each.
TEST(Finetuning, OnlyAdaptersHaveOptimizerStates) {
  RunSpec spec = small_run();
  spec.precision = Precision::bf16;
  spec.lora = {.rank = 4, .targets = {"q_proj", "v_proj"}, .dropout = 0.0};
  constexpr std::int64_t kElements = 2 * 4 * (64 + 48);
  EXPECT_EQ(bytes_of(spec, Category::optimizer), 2 * 4 * kElements);
  EXPECT_EQ(bytes_of(spec, Category::gradient), 4 * kElements);
}

TEST(Finetuning, FrozenParametersHaveNone) {
  RunSpec spec = small_run();
  const std::int64_t all = bytes_of(spec, Category::optimizer);
  spec.freeze = "embed_tokens|lm_head";
  EXPECT_EQ(bytes_of(spec, Category::optimizer), all - 2 * 4 * 2 * 64 * 32);
}

// 8-bit states begin at 4096 elements: here only none, so AdamW's are fp32 and code books absent.
TEST(Finetuning, SmallParametersKeepWideStates) {
  RunSpec spec = small_run();
  const std::int64_t wide = bytes_of(spec, Category::optimizer);
  spec.optimizer = OptimizerKind::adamw8bit;
  EXPECT_EQ(bytes_of(spec, Category::optimizer), wide);
}

TEST(Finetuning, ErrorsNameWhatIsWrong) {
  RunSpec spec = small_run();
  spec.lora = {.rank = 4, .targets = {"q_porj"}, .dropout = 0.0};
  EXPECT_NE(error_of(spec).find("LoRA targets: unknown layer 'q_porj'; the nearest is 'q_proj'"),
            std::string::npos)
      << error_of(spec);
  spec = small_run();
  spec.freeze = "(";
  EXPECT_EQ(error_of(spec), "'(' is not a regular expression");
  spec.freeze = ".";
  EXPECT_EQ(error_of(spec), "'.' freezes every parameter: nothing trains");
  spec = small_run();
  spec.lora.rank = 4;
  spec.parallel = Parallel::fsdp2;
  EXPECT_NE(error_of(spec).find("are not modelled"), std::string::npos);
}

}  // namespace
}  // namespace peakcast
