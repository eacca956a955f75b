#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/byte_source.hpp"
#include "sim/trace/minimalloc_csv.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/rmm_log.hpp"
#include "sim/trace/trace_summary.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

std::string fault(const std::string& bytes) {
  const auto loaded = read_trace_bytes(bytes, "t");
  return loaded ? "no fault" : to_string(loaded.error());
}

std::string rmm_log(const std::string& rows) {
  return "Thread,Time,Action,Pointer,Size,Stream\n" + rows;
}

TEST(RmmLog, ReadsRowsInOrderAcrossMidnight) {
  const auto loaded = read_trace_bytes(rmm_log("7,23:59:59.999999,allocate,0x10,100,0x1\n"
                                               "7,00:00:00:000001,allocate failure,(nil),999,0\n"
                                               "8,00:00:00.5,free,0x10,100,1\n"),
                                       "t");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const Trace& trace = loaded->trace;
  EXPECT_EQ(loaded->format, TraceFormat::rmm_log);
  ASSERT_EQ(trace.ops.size(), 3U);
  EXPECT_EQ(trace.ops[1].flags, kAttempt);
  EXPECT_EQ(trace.ops[2].kind, OpKind::free);
  EXPECT_EQ(trace.times_us[1] - trace.times_us[0], 2);
  EXPECT_EQ(trace.times_us[2] - trace.times_us[1], 499'999);
  EXPECT_EQ(trace.streams, (std::vector<std::uint64_t>{0, 1}));
}

TEST(RmmLog, NamesThePlaceOfEveryFault) {
  EXPECT_EQ(fault(rmm_log("7,1:2:3,allocate,0x10,100,0\n")),
            "t:2:3: time '1:2:3' is not HH:MM:SS.ffffff");
  EXPECT_EQ(fault(rmm_log("7,00:00:00.1,free,0x10,100,0\n")),
            "t:2:19: frees '0x10', which is not live");
  EXPECT_EQ(fault(rmm_log("7,00:00:00.1,alocate,0x10,100,0\n")),
            "t:2:14: unknown action 'alocate'; the nearest is 'allocate'");
  EXPECT_EQ(fault(rmm_log("7,00:00:00.1,allocate,0x10\n")), "t:2: six columns are needed");
}

TEST(RmmLog, KeepsAProgramThroughExport) {
  const auto loaded = read_trace(testing_support::data_file("fuzz_057.csv.zst"));
  ASSERT_TRUE(loaded);
  const auto again = read_trace_bytes(rmm_log(loaded->trace), "t");
  ASSERT_TRUE(again) << to_string(again.error());
  const TraceSummary before = summary_of(loaded->trace);
  const TraceSummary after = summary_of(again->trace);
  EXPECT_EQ(after.ops[0], before.ops[0]);
  EXPECT_EQ(after.ops[1], before.ops[1]);
  EXPECT_EQ(after.attempts, before.attempts);
  EXPECT_EQ(after.peak_live, before.peak_live);
}

TEST(Minimalloc, OrdersFreesBeforeAllocationsOfOneInstant) {
  // b begins where a ends: half-open lives share the memory.
  const auto loaded = read_trace_bytes("size,id,lower,upper\n8,a,0,3\n16,b,3,9\n", "t");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const Trace& trace = loaded->trace;
  EXPECT_EQ(loaded->format, TraceFormat::minimalloc_csv);
  ASSERT_EQ(trace.ops.size(), 4U);
  EXPECT_EQ(trace.ops[1].kind, OpKind::free);
  EXPECT_EQ(summary_of(trace).peak_live, Bytes{16});
  EXPECT_EQ(trace.strings[trace.labels[2] - 1], "b");
  // `end` is inclusive: now both live at 3.
  const auto inclusive = read_trace_bytes("id,begin,end,size\na,0,3,8\nb,3,9,16\n", "t");
  ASSERT_TRUE(inclusive);
  EXPECT_EQ(summary_of(inclusive->trace).peak_live, Bytes{24});
}

TEST(Minimalloc, NamesThePlaceOfEveryFault) {
  EXPECT_EQ(fault("id,lower,upper,sise\na,0,3,8\n"),
            "t:1:16: unknown column 'sise'; the nearest is 'size'");
  EXPECT_EQ(fault("id,lower,upper,size\na,0,3\n"), "t:2: 3 columns, the header has 4");
  EXPECT_EQ(fault("id,lower,upper,size\na,3,3,8\n"), "t:2: the life [3, 3) is empty");
  EXPECT_EQ(fault("id,lower,upper,end,size\n"), "t:1:16: column 'end' is there twice");
  EXPECT_EQ(fault("id,lower,upper,size,gaps\na,0,3,8,1-2\n"),
            "t:2:9: buffers with gaps cannot be replayed");
}

TEST(Minimalloc, ExportsOneRowABuffer) {
  const auto loaded = read_trace_bytes(
      "alloc,1000,100,0\nalloc,2000,600,0\n"
      "free_completed,1000,100,0\n",
      "t");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(minimalloc_csv(loaded->trace), "id,lower,upper,size\n0,0,2,512\n1,1,3,1024\n");
}

TEST(ReadTrace, NamesWhatItWouldHaveTaken) {
  EXPECT_NE(fault("hello\n").find("this is no trace that is known"), std::string::npos);
}

TEST(Window, SeesThroughGzipAndZstdAndNoticesEveryCut) {
  const std::string csv = "alloc,1000,100,0\nalloc,2000,600,0\n";
  for (const char* name : {"t.csv.gz", "t.csv.zst"}) {
    const auto packed = compressed_for(name, csv);
    ASSERT_TRUE(packed);
    EXPECT_LT(0U, packed->size());
    ASSERT_EQ(fault(*packed), "no fault") << name;
    for (std::size_t cut = 0; cut < packed->size(); ++cut) {
      EXPECT_NE(fault(packed->substr(0, cut)), "no fault") << name << " " << cut;
    }
    for (std::size_t at = 0; at < packed->size(); ++at) {
      std::string flipped = *packed;
      flipped[at] = static_cast<char>(~flipped[at]);
      static_cast<void>(fault(flipped));  // any answer but a crash
    }
  }
}

TEST(Window, StopsAtItsLimit) {
  const auto packed = compressed_for("t.zst", std::string(std::size_t{1} << 22, 'x'));
  ASSERT_TRUE(packed);
  auto window = Window::open(open_memory(*packed), "t", Bytes{1 << 20});
  ASSERT_TRUE(window);
  const auto filled = window->fill_all();
  ASSERT_FALSE(filled);
  EXPECT_NE(filled.error().message.find("would take more than 1.00 MiB of memory: --max-memory"),
            std::string::npos)
      << filled.error().message;
}

TEST(TextFormats, TakeTheLineEndsOfWindows) {
  const auto ops = [](std::string_view bytes) {
    const auto loaded = read_trace_bytes(bytes, "t");
    EXPECT_TRUE(loaded) << to_string(loaded.error());
    return loaded ? loaded->trace.ops.size() : 0;
  };
  EXPECT_EQ(ops("Thread,Time,Action,Pointer,Size,Stream\r\n"
                "1,10:00:00.000001,allocate,0x7f0000000000,1024,0x0\r\n"
                "1,10:00:00.000002,free,0x7f0000000000,1024,0x0\r\n"),
            2U);
  EXPECT_EQ(ops("id,lower,upper,size\r\n0,0,2,1024\r\n1,1,3,512\r\n"), 4U);
  EXPECT_EQ(ops("\xef\xbb\xbfid,lower,upper,size\r\n0,0,2,1024\r\n"), 2U);
  EXPECT_EQ(ops("alloc,7f0000000000,1024,0\r\n"), 1U);
}

TEST(Minimalloc, ABlankLineIsAFault) {
  const auto loaded = read_trace_bytes("id,lower,upper,size\n0,0,2,1024\n\n1,1,3,512\n", "m.csv");
  ASSERT_FALSE(loaded);
  EXPECT_EQ(to_string(loaded.error()), "m.csv:3: the line is blank");
}

}  // namespace
}  // namespace peakcast
