#include "sim/trace/recorded_csv.hpp"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/read_trace.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/trace_summary.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

Trace read(const std::string& csv) {
  auto loaded = read_trace_bytes(csv, "t.csv");
  if (!loaded) {
    ADD_FAILURE() << to_string(loaded.error());
    return {};
  }
  EXPECT_FALSE(first_fault(loaded->trace).has_value());
  return std::move(loaded->trace);
}

std::string fault(const std::string& csv) {
  const auto loaded = read_trace_bytes(csv, "t.csv");
  return loaded ? "no fault" : to_string(loaded.error());
}

/// "allocate 0, free 0 ...": kinds and buffers; '!' attempt, '@' at sync.
std::string program(const Trace& trace) {
  std::string text;
  for (const Op& op : trace.ops) {
    text += text.empty() ? "" : ", ";
    text += to_string(op.kind);
    if (op.kind == OpKind::mark) {
      text += " " + trace.strings[op.id];
    } else if (op.kind != OpKind::empty_cache) {
      text += " " + std::to_string(op.id);
    }
    text += op.kind == OpKind::allocate && (op.flags & kAttempt) != 0  ? "!"
            : op.kind == OpKind::complete && (op.flags & kAtSync) != 0 ? "@"
                                                                       : "";
  }
  return text;
}

TEST(RecordedCsv, TurnsAFreeThatCompletesAtOnceIntoOneOp) {
  const Trace trace = read(
      "segment_alloc,1000,2097152,0\n"
      "alloc,1000,700,0\n"
      "free_requested,1000,700,0\n"
      "free_completed,1000,700,0\n"
      "alloc,1000,512,0\n");
  EXPECT_EQ(program(trace), "allocate 0, free 0, allocate 0");
  EXPECT_EQ(trace.ops[0].value, 700);
  EXPECT_EQ(trace.buffer_slots, 1U);
  EXPECT_EQ(trace.recording->event_of_op, (std::vector<std::uint32_t>{1, 2, 4}));
}

TEST(RecordedCsv, HoldsABufferThatCompletesLaterAndItsSlotUntilThen) {
  const Trace trace = read(
      "alloc,1000,512,0\n"
      "free_requested,1000,512,0\n"
      "alloc,2000,512,0\n"
      "free_completed,1000,512,0\n"  // the poll of the next malloc
      "alloc,1000,512,0\n");
  EXPECT_EQ(program(trace),
            "allocate 0, record_stream 0, free 0, allocate 1, complete 0, allocate 0");
  EXPECT_EQ(trace.streams, (std::vector<std::uint64_t>{0, kUnknownStream}));
}

TEST(RecordedCsv, TellsCompletionsAtAWaitFromThoseOfAPoll) {
  // Both pending buffers complete and a release follows: the allocator waited.
  EXPECT_EQ(program(read("alloc,1000,512,0\n"
                         "alloc,2000,512,0\n"
                         "free_requested,1000,512,0\n"
                         "free_requested,2000,512,0\n"
                         "free_completed,1000,512,0\n"
                         "free_completed,2000,512,0\n"
                         "segment_free,1000,2097152,0\n"
                         "segment_alloc,900000,4194304,0\n"
                         "alloc,900000,4000000,0\n")),
            "allocate 0, allocate 1, record_stream 0, free 0, record_stream 1, free 1, "
            "complete 0@, complete 1@, allocate 1");
  // One stays pending: a poll, then garbage collection.
  EXPECT_EQ(program(read("alloc,1000,512,0\n"
                         "alloc,2000,512,0\n"
                         "free_requested,1000,512,0\n"
                         "free_requested,2000,512,0\n"
                         "free_completed,1000,512,0\n"
                         "segment_free,1000,2097152,0\n"
                         "segment_alloc,900000,4194304,0\n"
                         "alloc,900000,4000000,0\n")),
            "allocate 0, allocate 1, record_stream 0, free 0, record_stream 1, free 1, "
            "complete 0, allocate 0");
}

TEST(RecordedCsv, SeesEmptyCacheWhereSegmentsGoWithoutGrowth) {
  EXPECT_EQ(program(read("alloc,1000,512,0\n"
                         "free_requested,1000,512,0\n"
                         "free_completed,1000,512,0\n"
                         "segment_free,1000,2097152,0\n"
                         "segment_free,900000,2097152,0\n"
                         "alloc,2000,512,0\n")),
            "allocate 0, free 0, empty_cache, allocate 0");
  // At the end of the recording too.
  EXPECT_EQ(program(read("alloc,1000,512,0\n"
                         "segment_unmap,900000,2097152,0\n")),
            "allocate 0, empty_cache");
}

TEST(RecordedCsv, TellsEmptyCacheFromAFailedRequestByTheLimit) {
  const std::string csv =
      "segment_alloc,1000,2097152,0\n"
      "alloc,1000,512,0\n"
      "free_completed,1000,512,0\n"
      "segment_free,1000,2097152,0\n"
      "segment_alloc,900000,4194304,0\n"
      "alloc,900000,4000000,0\n";
  const auto with_limit = [&](std::int64_t limit) {
    Sidecar sidecar;
    sidecar.limit = Bytes{limit};
    auto window = Window::open(open_memory(csv), "t.csv");
    return program(read_recorded_csv(*window, &sidecar).value());
  };
  // 2 MiB and 4 MiB together are 6 MiB.
  EXPECT_EQ(with_limit(6291456), "allocate 0, free 0, empty_cache, allocate 0");
  EXPECT_EQ(with_limit(6291455), "allocate 0, free 0, allocate 0");
}

TEST(RecordedCsv, MakesAnOomAnAttemptWhoseSlotStaysFree) {
  const Trace trace = read(
      "alloc,1000,512,0\n"
      "oom,0,1073741824,0\n"
      "alloc,2000,512,0\n");
  EXPECT_EQ(program(trace), "allocate 0, allocate 1!, allocate 1");
  EXPECT_EQ(trace.ops[1].value, 1'073'741'824);
}

TEST(RecordedCsv, NumbersStreamsInTheOrderOfTheirHandles) {
  const Trace trace = read(
      "alloc,1000,512,7f02\n"
      "alloc,2000,512,7f01\n"
      "alloc,3000,512,0\n");
  EXPECT_EQ(trace.streams, (std::vector<std::uint64_t>{0, 0x7f01, 0x7f02}));
  EXPECT_EQ(trace.ops[0].stream, 2);
  EXPECT_EQ(trace.recording->events[1].stream.value, 1U);
}

TEST(RecordedCsv, TakesTheFifthColumnForATimeOrALabel) {
  const Trace timed = read("alloc,1000,512,0,12\nalloc,2000,512,0,13\n");
  EXPECT_EQ(timed.times_us, (std::vector<std::int64_t>{12, 13}));
  const Trace labelled = read("alloc,1000,512,0,mm < add @ a.py:1:f, again\nalloc,2000,512,0,\n");
  EXPECT_EQ(labelled.strings, (std::vector<std::string>{"mm < add @ a.py:1:f, again"}));
  EXPECT_EQ(labelled.labels, (std::vector<std::uint32_t>{1, 0}));
}

TEST(RecordedCsv, NamesThePlaceOfEveryFault) {
  const std::string good = "alloc,1000,512,0,5\n";
  EXPECT_EQ(fault("alloc,1000,512,0"),
            "t.csv:1: the last line has no end: the file may be cut off");
  EXPECT_EQ(fault(good + "aloc,1000,512,0,5\n"),
            "t.csv:2:1: unknown action 'aloc'; the nearest is 'alloc'");
  EXPECT_EQ(fault(good + "free_requested,2000,512,0,5\n"),
            "t.csv:2: frees 0x2000, which is not live");
  EXPECT_EQ(fault(good + "free_completed,2000,512,0,5\n"),
            "t.csv:2: completes the free of 0x2000, which is not live");
  EXPECT_EQ(fault(good + good), "t.csv:2: allocates 0x1000, which is live already");
  EXPECT_EQ(fault(good + "alloc,2000,-512,0,5\n"),
            "t.csv:2:12: size '-512' is not a whole number of bytes");
  EXPECT_EQ(fault(good + "alloc,2000,9223372036854775808,0,5\n"),
            "t.csv:2:12: size '9223372036854775808' is not a whole number of bytes");
  EXPECT_EQ(fault(good + "alloc,2000,999999999999999,0,5\n"),
            "t.csv:2:12: size '999999999999999' is larger than 256 TiB");
  EXPECT_EQ(fault(good + "alloc,2000,0,0,5\n"), "t.csv:2:12: size 0");
  EXPECT_EQ(fault(good + "alloc,xyz,512,0,5\n"),
            "t.csv:2:7: address 'xyz' is not a hex number of 64 bits");
  EXPECT_EQ(fault(good + "alloc,0,512,0,5\n"), "t.csv:2:7: address '0' cannot be a device's");
  EXPECT_EQ(fault(good + "alloc,2000,512,ffffffffffffffff,5\n"),
            "t.csv:2:16: stream 'ffffffffffffffff' is one too many, or reserved");
  EXPECT_EQ(fault(good + "alloc,2000,512,0\n"), "t.csv:2: a column less than the lines before");
  EXPECT_EQ(fault(good + "alloc,2000,512,0,x\n"),
            "t.csv:2:18: time 'x' is not a whole number of microseconds");
  EXPECT_EQ(fault(good + "\n"), "t.csv:2: action,addr,size,stream is needed");
  EXPECT_EQ(fault(""), "t.csv: the file is empty");
}

TEST(RecordedCsv, RefusesSizesWhoseSumWouldOverflow) {
  std::string csv;
  for (int i = 1; i <= 8193; ++i) {  // 8193 x 2^48 > 2^61
    csv += "alloc," + std::to_string(1000 + i) + ",281474976710656,0\n";
  }
  EXPECT_EQ(fault(csv), "t.csv:8193: the sizes add up to more than 2 EiB");
}

TEST(RecordedCsv, WritesWhatItReadByteForByte) {
  for (const char* name : {"fuzz_006", "fuzz_072", "pressure_fsdp1_llama_7b_w8_cap25"}) {
    const auto loaded = read_trace(testing_support::data_file(std::string{name} + ".csv.zst"));
    ASSERT_TRUE(loaded) << name;
    const Trace& trace = loaded->trace;
    const std::string csv = recorded_csv(*trace.recording, trace.streams, trace.strings);
    const auto again = read_trace_bytes(csv, "again.csv");
    ASSERT_TRUE(again);
    EXPECT_EQ(again->trace.recording->events, trace.recording->events);
    EXPECT_EQ(recorded_csv(*again->trace.recording, again->trace.streams, again->trace.strings),
              csv);
  }
}

TEST(RecordedCsv, SurvivesACutAtEveryByte) {
  const std::string csv =
      "segment_alloc,1000,2097152,0,1\n"
      "alloc,1000,700,0,2\n"
      "free_requested,1000,700,0,3\n"
      "free_completed,1000,700,0,4\n";
  for (std::size_t cut = 0; cut < csv.size(); ++cut) {
    const auto loaded = read_trace_bytes(csv.substr(0, cut), "t.csv");
    // A cut between lines leaves a shorter recording; every other one is a fault.
    EXPECT_EQ(loaded.has_value(), cut > 0 && csv[cut - 1] == '\n') << cut;
  }
}

TEST(Sidecar, BringsSettingsLimitFiguresSegmentsAndMarks) {
  const auto sidecar = parse_sidecar(
      R"({"alloc_conf":"expandable_segments:True","allowed_bytes":1024,"total_memory":4096,
          "torch":"2.6.0","final":{"num_ooms":2,"reserved_bytes.all.peak":77},
          "segments":[{"address":4096,"total_size":2097152,"stream":0,
                       "blocks":[[512,500,"active_allocated"],[2096640,0,"inactive"]]}],
          "marks":[[5,"iter0"],[6,"backward"]]})",
      "t.json");
  ASSERT_TRUE(sidecar) << to_string(sidecar.error());
  const std::string csv = "alloc,1000,500,0,4\nalloc,2000,500,0,5\nalloc,3000,500,0,9\n";
  auto window = Window::open(open_memory(csv), "t.csv");
  const auto trace = read_recorded_csv(*window, &*sidecar);
  ASSERT_TRUE(trace);
  EXPECT_EQ(program(*trace), "allocate 0, mark iter0, allocate 1, mark backward, allocate 2");
  EXPECT_EQ(mark_kind_of(trace->ops[1]), MarkKind::iteration);
  EXPECT_EQ(mark_kind_of(trace->ops[3]), MarkKind::phase);
  EXPECT_EQ(trace->recording->alloc_conf, "expandable_segments:True");
  EXPECT_EQ(trace->recording->limit, Bytes{1024});
  EXPECT_EQ(trace->recording->device_total, Bytes{4096});
  EXPECT_EQ(trace->recording->framework, "2.6.0");
  ASSERT_EQ(trace->recording->segments.size(), 1U);
  EXPECT_TRUE(trace->recording->segments[0].small_pool);
  ASSERT_EQ(trace->recording->final_statistics.size(), 2U);
}

TEST(Sidecar, NamesFileAndKeyOfAFault) {
  const auto message = [](const char* json) {
    const auto sidecar = parse_sidecar(json, "t.json");
    return sidecar ? "no fault" : to_string(sidecar.error());
  };
  EXPECT_EQ(message("{"), "t.json: byte 2: not valid JSON");
  EXPECT_EQ(message("[]"), "t.json: a JSON object is needed");
  EXPECT_EQ(message(R"({"allowed_bytes":-1})"),
            "t.json: 'allowed_bytes' is not a size up to 256 TiB");
  EXPECT_EQ(message(R"({"alloc_conf":1})"),
            "t.json: 'alloc_conf' is not a string of up to 4096 bytes");
  EXPECT_EQ(message(R"({"segments":[{"address":1,"total_size":5,"stream":0,"blocks":[]}]})"),
            "t.json: the blocks of segment 1 do not tile it");
}

}  // namespace
}  // namespace peakcast
