#include "sim/trace/native_format.hpp"

#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "sim/trace/read_trace.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

/// A generated trace: no recording, every kind of op.
Trace generated() {
  Trace trace;
  trace.source = "by hand";
  trace.streams = {0, 7, 9};
  trace.strings = {"iter0", "gemm", "forward"};
  trace.buffer_slots = 3;
  trace.event_slots = 1;
  const auto mark = [](MarkKind kind) { return static_cast<std::uint8_t>(kind); };
  trace.ops = {{0, 0, 0, OpKind::mark, mark(MarkKind::iteration)},
               {0, 2, 0, OpKind::mark, mark(MarkKind::phase)},
               {4096, 0, 1, OpKind::allocate, static_cast<std::uint8_t>(Category::parameter)},
               {std::int64_t{1} << 40, 1, 0, OpKind::allocate, kAttempt},
               {12, 1, 0, OpKind::allocate, 0},
               {1500, 0, 2, OpKind::launch, 0},
               {900, 0, 2, OpKind::collective, 0},
               {0, 0, 2, OpKind::record_event, 0},
               {0, 0, 0, OpKind::wait_event, 0},
               {0, 0, 0, OpKind::host_wait, 0},
               {0, 1, 2, OpKind::record_stream, 0},
               {0, 1, 0, OpKind::free, 0},
               {0, 0, 0, OpKind::synchronize, kAllStreams},
               {77, 0, 0, OpKind::host_work, 0},
               {0, 0, 0, OpKind::empty_cache, 0},
               {std::int64_t{1} << 30, 2, 0, OpKind::host_allocate, 0},
               {0, 2, 0, OpKind::host_free, 0},
               {10 << 20, 0, 0, OpKind::driver_memory, 0},
               {1792, 0, 0, OpKind::local_memory, 0}};
  trace.labels.assign(trace.ops.size(), 0);
  trace.labels[5] = 2;
  return trace;
}

void expect_round_trip(const Trace& trace) {
  ASSERT_FALSE(first_fault(trace).has_value()) << first_fault(trace)->why;
  const std::string bytes = native_bytes(trace);
  const auto again = read_native(bytes, "t.pkt");
  ASSERT_TRUE(again) << to_string(again.error());
  EXPECT_EQ(again->ops, trace.ops);
  EXPECT_EQ(*again, trace);
  EXPECT_EQ(native_bytes(*again), bytes);
}

TEST(NativeFormat, GivesBackAGeneratedTraceExactly) {
  expect_round_trip(generated());
  Trace timed = generated();
  timed.times_us.assign(timed.ops.size(), -5);
  timed.labels.clear();
  expect_round_trip(timed);
  expect_round_trip(Trace{});
}

TEST(FirstFault, OfHostMemory) {
  const auto why = [](std::vector<Op> ops) {
    Trace trace;
    trace.buffer_slots = 1;
    trace.ops = std::move(ops);
    const auto fault = first_fault(trace);
    return fault ? fault->why : std::string{};
  };
  const Op host{.value = 9, .id = 0, .kind = OpKind::host_allocate};
  const Op device{.value = 9, .id = 0, .kind = OpKind::allocate};
  const Op gone{.id = 0, .kind = OpKind::host_free};
  EXPECT_EQ(why({host, gone, device}), "");
  EXPECT_EQ(why({host, host}), "buffer 0 is allocated twice");
  EXPECT_EQ(why({host, device}), "buffer 0 is allocated twice");
  EXPECT_EQ(why({device, gone}), "buffer 0 is freed, but is not the host's");
  EXPECT_EQ(why({host, {.id = 0, .kind = OpKind::free}}), "buffer 0 is freed, but is not live");
  EXPECT_EQ(why({{.value = 0, .kind = OpKind::host_allocate}}), "a size of 0 bytes");
  EXPECT_EQ(why({{.value = -1, .kind = OpKind::driver_memory}}), "a size of -1 bytes");
  EXPECT_EQ(why({{.value = 1 << 20, .kind = OpKind::local_memory}}),
            "1048576 bytes of local memory per thread");
}

TEST(NativeFormat, GivesBackRecordingsExactly) {
  for (const char* name :
       {"fuzz_006.csv.zst", "fuzz_057.csv.zst", "fuzz_072.csv.zst",
        "pressure_fsdp1_llama_7b_w8_cap25.csv.zst", "bert_large_fp32_b8_s128.csv.zst",
        "bert_base_b4_s64_stacks.pickle.zst"}) {
    SCOPED_TRACE(name);
    const auto loaded = read_trace(testing_support::data_file(name));
    ASSERT_TRUE(loaded);
    expect_round_trip(loaded->trace);
  }
}

TEST(NativeFormat, StoresOpsThatTheEntriesDoNotMakeAgain) {
  auto loaded = read_trace(testing_support::data_file("fuzz_057.csv.zst"));
  ASSERT_TRUE(loaded);
  loaded->trace.ops[0].flags = static_cast<std::uint8_t>(Category::parameter);
  expect_round_trip(loaded->trace);
}

TEST(NativeFormat, IsSeveralTimesSmallerThanTheCsv) {
  const auto loaded =
      read_trace(testing_support::data_file("pressure_fsdp1_llama_7b_w8_cap25.csv.zst"));
  ASSERT_TRUE(loaded);
  const Trace& trace = loaded->trace;
  // 62 kB, segments and marks included; the CSV has 1.9 MB without them, 136 kB compressed.
  const std::size_t csv = recorded_csv(*trace.recording, trace.streams, trace.strings).size();
  EXPECT_LT(native_bytes(trace).size() * 20, csv);
}

TEST(NativeFormat, FaultsAtEveryCutAndEveryFlippedBit) {
  const std::string good = native_bytes(generated());
  for (std::size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_FALSE(read_native(good.substr(0, cut), "t.pkt")) << cut;
  }
  EXPECT_FALSE(read_native(good + "x", "t.pkt"));
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string flipped = good;
      flipped[at] = static_cast<char>(static_cast<unsigned char>(flipped[at]) ^ (1U << bit));
      EXPECT_FALSE(read_native(flipped, "t.pkt")) << at << "." << bit;
      // Without checksums it may be another trace, but never an invalid one.
      if (const auto other = read_native(flipped, "t.pkt", {.checksums = false})) {
        EXPECT_FALSE(first_fault(*other).has_value());
      }
    }
  }
}

TEST(NativeFormat, NamesTheVersionItCannotRead) {
  std::string newer = native_bytes(generated());
  newer[8] = 2;
  const auto trace = read_native(newer, "t.pkt");
  ASSERT_FALSE(trace);
  EXPECT_EQ(to_string(trace.error()),
            "t.pkt: byte 0: format version 2; this program reads version 1");
}

}  // namespace
}  // namespace peakcast
