#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/derive_program.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/recorded_start.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/recorded_replay.hpp"

namespace peakcast {
namespace {

/// The recording as it would be, had it begun with entry `begin`.
Trace begun_at(const Trace& whole, std::size_t begin) {
  Trace late;
  late.streams = whole.streams;
  late.recording = whole.recording;
  Recording& recording = *late.recording;
  const auto cut = [&](auto& items) {
    if (!items.empty()) {
      items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(begin));
    }
  };
  cut(recording.events);
  cut(recording.times_us);
  cut(recording.labels);
  recording.labels.clear();
  recording.final_statistics.clear();  // they count from the program's start
  recording.head_lost = true;
  const auto bad = derive_program(late, true);
  EXPECT_FALSE(bad.has_value()) << bad->why;
  return late;
}

std::string text_of(const std::vector<RecordedSegment>& heap) {
  std::string text;
  for (const RecordedSegment& segment : heap) {
    text += std::to_string(segment.address.value()) + ":";
    for (const RecordedBlock& block : segment.blocks) {
      text += " " + std::to_string(block.size.count()) +
              (block.allocated ? "a"
               : block.active  ? "p"
                               : "");
    }
    text += "\n";
  }
  return text;
}

class LateRecording : public testing::TestWithParam<std::string> {};

/// Wherever a recording is cut, the rest replays as it was recorded: every event and address, and
/// the final segments.
TEST_P(LateRecording, ReplaysFromWhereItBegan) {
  const auto loaded = read_trace(support::data_folder() + "/" + GetParam() + ".csv.zst");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  ASSERT_FALSE(loaded->trace.recording->segments.empty());
  const std::size_t entries = loaded->trace.recording->events.size();
  for (const std::size_t part : {1U, 2U, 3U, 5U, 6U}) {
    const std::size_t begin = entries * part / 7;
    const Trace late = begun_at(loaded->trace, begin);
    EXPECT_FALSE(first_fault(late).has_value());
    EXPECT_TRUE(findings(late, 10).empty());
    const auto replayed = support::replay_recording(late, support::Place::recorded);
    EXPECT_TRUE(replayed.differences.empty())
        << "from entry " << begin << " of " << entries << ": " << replayed.differences.front();
  }
}

INSTANTIATE_TEST_SUITE_P(Data, LateRecording,
                         testing::Values("fuzz_021", "fuzz_048", "fuzz_057", "fuzz_060", "fuzz_072",
                                         "bert_large_fp32_b8_s128",
                                         "pressure_fsdp1_llama_7b_w8_cap25",
                                         "pressure_gpt2_long_s16384_ckpt_cap14"),
                         [](const auto& one) { return one.param; });

/// A heap walked back from its end to its beginning is empty.
TEST(RecordedStart, OfAWholeRecordingIsEmpty) {
  const auto loaded = read_trace(support::data_folder() + "/fuzz_057.csv.zst");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(reserved_at_start(*loaded->trace.recording), Bytes{});
  const auto start = recorded_start(*loaded->trace.recording, default_block_size);
  ASSERT_TRUE(start) << to_string(start.error());
  EXPECT_EQ(text_of(*start), "");
}

}  // namespace
}  // namespace peakcast
