// The programs of real runs, event by event: what was generated from a scenario against what
// PyTorch 2.11.0 and transformers 5.17.0 did on an H100, recorded on 2026-11-24, -26 and -28, and
// DeepSpeed 0.19.8 on two H200 on 2026-11-26 (tests/data/programs, and all of the recordings where
// they are beside the source tree; PEAKCAST_GROUNDTRUTH names another place). From the recordings
// of ZeRO-3 one thing is cut: its constructors print their arguments, so every parameter's first
// and last values, by operators whose scratch depends on the values (1023 bytes at the most, freed
// before it goes on).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/read_trace.hpp"
#include "tests/support/recorded_run.hpp"
#include "workloads/generate.hpp"

namespace peakcast {
namespace {

/// One allocation or free. A buffer's number counts allocations from 0.
struct Event {
  bool allocates{};
  std::int64_t size{};
  std::uint32_t stream{};
  std::int64_t number{};
};

std::vector<Event> events_of(const Trace& trace) {
  std::vector<Event> events;
  std::vector<Event> live(trace.buffer_slots);
  std::int64_t number = 0;
  std::map<StreamId, std::uint32_t>
      streams;  // numbered as they come up: a recording knows no others
  for (const Op& op : trace.ops) {
    if (op.kind == OpKind::allocate) {
      const auto next = static_cast<std::uint32_t>(streams.size());
      const std::uint32_t stream = streams.emplace(StreamId{op.stream}, next).first->second;
      live[op.id] = {true, op.value, stream, number++};
      events.push_back(live[op.id]);
    } else if (op.kind == OpKind::free) {
      Event event = live[op.id];
      event.allocates = false;
      events.push_back(event);
    }
  }
  return events;
}

struct Comparison {
  std::int64_t equal{};
  std::int64_t reordered{};  ///< within a run of frees: nothing comes in between
  std::string first_difference{};
};

/// Runs of frees are compared as sets: a run that holds autocast's weight copies is freed in the
/// order of a hash map keyed by address.
Comparison compare(const std::vector<Event>& recorded, const std::vector<Event>& generated) {
  Comparison result;
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < recorded.size() && j < generated.size()) {
    const Event& a = recorded[i];
    const Event& b = generated[j];
    if (a.allocates == b.allocates && a.size == b.size && a.stream == b.stream &&
        a.number == b.number) {
      ++result.equal;
      ++i;
      ++j;
      continue;
    }
    std::set<std::int64_t> left;
    std::set<std::int64_t> right;
    for (; i < recorded.size() && !recorded[i].allocates; ++i) {
      left.insert(recorded[i].number);
    }
    for (; j < generated.size() && !generated[j].allocates; ++j) {
      right.insert(generated[j].number);
    }
    if (left.empty() || left != right) {
      result.first_difference = "at recorded event " + std::to_string(i) + ": " +
                                std::to_string(a.size) + " bytes, generated " +
                                std::to_string(b.size);
      return result;
    }
    result.reordered += static_cast<std::int64_t>(left.size());
  }
  if (i < recorded.size() || j < generated.size()) {
    result.first_difference = "one program is longer";
  }
  return result;
}

void expect_same_program(const std::string& base) {
  SCOPED_TRACE(base);
  const auto loaded = read_trace(base + ".csv.zst", {.sidecar = false});
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const auto spec = testing::recorded_run(base + ".json");
  ASSERT_TRUE(spec) << to_string(spec.error());
  const auto trace = generate(*spec);
  ASSERT_TRUE(trace) << to_string(trace.error());
  const std::vector<Event> recorded = events_of(loaded->trace);
  const Comparison result = compare(recorded, events_of(*trace));
  EXPECT_EQ(result.first_difference, "") << "after " << result.equal << " of " << recorded.size();
  if (spec->precision != Precision::bf16_amp && spec->precision != Precision::fp16_amp) {
    EXPECT_EQ(result.reordered, 0);
  }
}

TEST(RecordedPrograms, AreGeneratedEventByEvent) {
  std::vector<std::string> bases;
  for (const auto& entry : std::filesystem::directory_iterator{PEAKCAST_TEST_DATA "/programs"}) {
    if (entry.path().extension() == ".json") {
      bases.push_back((entry.path().parent_path() / entry.path().stem()).string());
    }
  }
  std::sort(bases.begin(), bases.end());
  ASSERT_GE(bases.size(), 50U);
  for (const std::string& base : bases) {
    expect_same_program(base);
  }
}

// Further families, LoRA, 4-bit weights, 8-bit and other optimizers, frozen parameters, Liger's
// fused loss (peft 0.21.2, bitsandbytes 0.50.2, Liger 0.8.5), on an H200 on 2026-11-29.
TEST(RecordedPrograms, OfWhatPeopleTrainTodayAreGeneratedEventByEvent) {
  const char* given = std::getenv("PEAKCAST_GROUNDTRUTH");
  const std::string root = given != nullptr ? given : PEAKCAST_SOURCE_DIR "/../shared/groundtruth";
  if (!std::filesystem::is_directory(root + "/today")) {
    GTEST_SKIP() << "no recordings beside the source tree; PEAKCAST_GROUNDTRUTH names a folder";
  }
  std::vector<std::string> bases;
  for (const auto& entry : std::filesystem::directory_iterator{root + "/today"}) {
    if (entry.path().extension() == ".json") {
      bases.push_back((entry.path().parent_path() / entry.path().stem()).string());
    }
  }
  std::sort(bases.begin(), bases.end());
  ASSERT_FALSE(bases.empty());
  for (const std::string& base : bases) {
    expect_same_program(base);
  }
}

TEST(RecordedPrograms, OfWholeModelsAreGeneratedEventByEvent) {
  const char* given = std::getenv("PEAKCAST_GROUNDTRUTH");
  const std::string root = given != nullptr ? given : PEAKCAST_SOURCE_DIR "/../shared/groundtruth";
  if (!std::filesystem::is_directory(root)) {
    GTEST_SKIP() << "no recordings beside the source tree; PEAKCAST_GROUNDTRUTH names a folder";
  }
  for (const char* name :
       {"bert_base_oplog_bf16amp_eager", "bert_base_oplog_fp32", "bert_base_small_stacks",
        "bert_large_bf16amp_b16_s512", "bert_large_bf16amp_b32_s128",
        "bert_large_fp16amp_b16_s512_eager", "bert_large_fp32_b8_s128",
        "bert_large_fp32_b8_s128_eager", "bert_large_fused_accum4_b8_s128",
        "bert_large_varlen_default", "gpt2_long_s16384", "gpt2_long_s16384_ckpt",
        "gpt2_medium_oplog_amp", "llama_1b_oplog", "llama_1b_s32768_ckpt", "llama_1b_s4096"}) {
    expect_same_program(root + "/traces/" + name);
  }
}

}  // namespace
}  // namespace peakcast
