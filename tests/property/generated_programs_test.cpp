// What must hold for every program that is generated, whatever the model and the settings.
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "workloads/generate.hpp"

namespace peakcast {
namespace {

struct Level {
  std::int64_t peak{};
  std::int64_t at_end{};
  std::array<std::int64_t, kCategoryCount> by_category{};  ///< at the peak
};

/// Replays the program on counters alone and checks that it is one: every free names a live buffer.
Level levels_of(const Trace& trace) {
  struct Live {
    std::int64_t size{-1};
    Category category{};
  };
  std::vector<Live> live(trace.buffer_slots);
  Level level;
  std::array<std::int64_t, kCategoryCount> now{};
  for (const Op& op : trace.ops) {
    if (op.kind == OpKind::allocate) {
      EXPECT_GT(op.value, 0);
      EXPECT_EQ(live[op.id].size, -1) << "allocated twice";
      live[op.id] = {op.value, category_of(op)};
      now[static_cast<std::size_t>(category_of(op))] += op.value;
      level.at_end += op.value;
      if (level.at_end > level.peak) {
        level.peak = level.at_end;
        level.by_category = now;
      }
    } else if (op.kind == OpKind::free) {
      EXPECT_GE(live[op.id].size, 0) << "freed twice";
      now[static_cast<std::size_t>(live[op.id].category)] -= live[op.id].size;
      level.at_end -= live[op.id].size;
      live[op.id].size = -1;
    }
  }
  return level;
}

RunSpec small(const std::string& model) {
  RunSpec spec;
  spec.model = model;
  spec.shapes = {{2, 64}};
  spec.iterations = 2;
  return spec;
}

constexpr std::array<const char*, 7> kModels{"bert-tiny",     "gpt2",     "llama-1b",  "t5-small",
                                             "mixtral-small", "vit-base", "qwen2-0.5b"};

/// Every model under every precision, attention and checkpointing; the other settings take turns.
std::vector<RunSpec> many_runs() {
  std::vector<RunSpec> runs;
  for (const char* model : kModels) {
    for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::fp16,
                                      Precision::bf16_amp, Precision::fp16_amp}) {
      for (const Attention attention : {Attention::sdpa, Attention::eager}) {
        for (const Checkpoint checkpoint :
             {Checkpoint::none, Checkpoint::full, Checkpoint::full_reentrant}) {
          RunSpec spec = small(model);
          spec.precision = precision;
          spec.attention = attention;
          spec.checkpoint = checkpoint;
          spec.clip_grad = attention == Attention::eager;
          spec.accumulate = checkpoint == Checkpoint::full ? 2 : 1;
          spec.optimizer = static_cast<OptimizerKind>(runs.size() % 6);
          spec.zero_grad = runs.size() % 4 == 0 ? ZeroGrad::after : ZeroGrad::before;
          runs.push_back(spec);
        }
      }
    }
  }
  return runs;
}

/// One model's share of many_runs().
class ProgramsOfOneModel : public ::testing::TestWithParam<const char*> {
 protected:
  static std::vector<RunSpec> runs() {
    std::vector<RunSpec> runs = many_runs();
    std::erase_if(runs, [](const RunSpec& spec) { return spec.model != GetParam(); });
    return runs;
  }
};

TEST_P(ProgramsOfOneModel, AreSoundAndTheirBreakdownAddsUp) {
  for (const RunSpec& spec : runs()) {
    const auto trace = generate(spec);
    ASSERT_TRUE(trace) << to_string(trace.error());
    const Level level = levels_of(*trace);
    std::int64_t sum = 0;
    for (const std::int64_t bytes : level.by_category) {
      EXPECT_GE(bytes, 0);
      sum += bytes;
    }
    EXPECT_EQ(sum, level.peak);
    EXPECT_GT(level.by_category[static_cast<std::size_t>(Category::parameter)], 0);
  }
}

// After its last iteration a run holds parameters, gradients, state, inputs, outputs and
// workspaces; nothing grows from one iteration to the next.
TEST_P(ProgramsOfOneModel, HoldNoMoreAfterThreeIterationsThanAfterTwo) {
  for (const RunSpec& base : runs()) {
    RunSpec spec = base;
    spec.iterations = 2;
    const auto two = generate(spec);
    spec.iterations = 3;
    const auto three = generate(spec);
    ASSERT_TRUE(two && three);
    const Level after_two = levels_of(*two);
    const Level after_three = levels_of(*three);
    EXPECT_EQ(after_two.at_end, after_three.at_end);
    EXPECT_EQ(after_two.peak, after_three.peak);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ProgramsOfOneModel, ::testing::ValuesIn(kModels),
                         [](const auto& name) {
                           std::string word = name.param;
                           std::replace_if(
                               word.begin(), word.end(),
                               [](char c) { return c == '-' || c == '.'; }, '_');
                           return word;
                         });

TEST(GeneratedPrograms, AreTheSameEveryTime) {
  for (const char* model : {"bert-tiny", "t5-small", "mixtral-small"}) {
    const auto first = generate(small(model));
    const auto second = generate(small(model));
    ASSERT_TRUE(first && second);
    EXPECT_TRUE(first->ops == second->ops);
    EXPECT_EQ(first->strings, second->strings);
  }
}

TEST(GeneratedPrograms, NeedMoreForLargerBatchesAndLongerSequences) {
  for (const char* model : {"bert-tiny", "gpt2", "llama-1b", "t5-small", "mixtral-small"}) {
    std::int64_t before = 0;
    for (const std::int64_t batch : {1, 2, 4, 8, 16}) {
      RunSpec spec = small(model);
      spec.shapes = {{batch, 128}};
      const auto trace = generate(spec);
      ASSERT_TRUE(trace);
      const std::int64_t peak = levels_of(*trace).peak;
      EXPECT_GE(peak, before) << model << " batch " << batch;
      before = peak;
    }
    before = 0;
    for (const std::int64_t seq : {16, 64, 128, 256, 512}) {
      RunSpec spec = small(model);
      spec.shapes = {{2, seq}};
      const auto trace = generate(spec);
      ASSERT_TRUE(trace);
      const std::int64_t peak = levels_of(*trace).peak;
      EXPECT_GE(peak, before) << model << " sequence " << seq;
      before = peak;
    }
  }
}

TEST(GeneratedPrograms, NeedLessWithCheckpointing) {
  RunSpec spec = small("bert-large");
  spec.shapes = {{16, 512}};
  const auto plain = generate(spec);
  spec.checkpoint = Checkpoint::full;
  const auto checkpointed = generate(spec);
  ASSERT_TRUE(plain && checkpointed);
  EXPECT_LT(levels_of(*checkpointed).peak, levels_of(*plain).peak);
}

TEST(ForwardGraph, CountsTheFlopsOfTheTextbook) {
  // bert-tiny, 2 sequences of 64 tokens: per layer 2 T (4 h^2 + 2 h i) in products with weights and
  // 4 T S h in attention; then the head's transform and its product with the vocabulary.
  constexpr std::int64_t kSequence = 64;
  constexpr std::int64_t kTokens = 2 * kSequence;
  constexpr std::int64_t kHidden = 128;
  constexpr std::int64_t kWide = 512;
  constexpr std::int64_t kVocabulary = 30522;
  constexpr std::int64_t kLayer = 2 * kTokens * (4 * kHidden * kHidden + 2 * kHidden * kWide) +
                                  4 * kTokens * kSequence * kHidden;
  RunSpec spec = small("bert-tiny");
  spec.shapes = {{2, kSequence}};
  const auto graph = forward_graph(spec);
  ASSERT_TRUE(graph);
  std::int64_t flops = 0;
  for (std::size_t v = 0; v < boost::num_vertices((*graph)->graph()); ++v) {
    const torch::OpGraph::Vertex& vertex = (*graph)->graph()[v];
    if (vertex.name == "addmm" || vertex.name.find("attention") != std::string::npos) {
      flops += vertex.flops;
    }
  }
  EXPECT_EQ(flops,
            2 * kLayer + 2 * kTokens * kHidden * kHidden + 2 * kTokens * kHidden * kVocabulary);
}

TEST(GeneratedPrograms, RefuseRunsThatAreNone) {
  RunSpec spec = small("bert-tiny");
  spec.shapes.clear();
  EXPECT_FALSE(generate(spec));
  spec.shapes = {{0, 16}};
  EXPECT_FALSE(generate(spec));
  spec = small("no-such-model");
  EXPECT_FALSE(generate(spec));
}

}  // namespace
}  // namespace peakcast
