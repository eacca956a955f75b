#include "workloads/capture/captured_run.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "workloads/capture/log.hpp"

namespace peakcast::capture {
namespace {

/// Writes a log as the library does.
class Log {
 public:
  Log() {
    LogHead head;
    head.process = 1;
    head.total = 1 << 30;
    append(&head, sizeof head);
  }
  std::uint32_t text(const std::string& words) {
    put({.value = static_cast<std::int64_t>(words.size()),
         .id = strings_,
         .kind = RecordKind::text});
    std::string padded = words;
    padded.resize((words.size() + sizeof(Record) - 1) / sizeof(Record) * sizeof(Record));
    append(padded.data(), padded.size());
    return strings_++;
  }
  void put(const Record& record) { append(&record, sizeof record); }
  void event(Action action, std::uint64_t address, std::int64_t size, std::uint8_t thread = 0) {
    put({.address = address,
         .value = size,
         .kind = RecordKind::allocator_event,
         .flags = static_cast<std::uint8_t>(action),
         .thread = thread});
  }
  [[nodiscard]] Expected<std::vector<CapturedRun>> read(std::size_t cut = 0) const {
    const std::filesystem::path file = std::filesystem::temp_directory_path() /
                                       ("captured_run_test." + std::to_string(getpid()) + ".log");
    std::ofstream{file, std::ios::binary}.write(bytes_.data(),
                                                static_cast<std::streamsize>(bytes_.size() - cut));
    Expected<std::vector<CapturedRun>> runs = read_log(file, "test");
    std::filesystem::remove(file);
    return runs;
  }

 private:
  void append(const void* from, std::size_t size) {
    bytes_.append(static_cast<const char*>(from), size);
  }
  std::string bytes_{};
  std::uint32_t strings_{};
};

std::vector<OpKind> kinds(const Trace& trace) {
  std::vector<OpKind> out;
  for (const Op& op : trace.ops) {
    out.push_back(op.kind);
  }
  return out;
}

TEST(CapturedRun, HasTheCardsWorkBetweenTheAllocatorsEvents) {
  Log log;
  const std::uint32_t kernel = log.text("a kernel whose name is longer than one record holds");
  log.event(Action::segment_alloc, 0x1000000, 2 << 20);
  log.event(Action::alloc, 0x1000000, 1000);
  log.put({.address = 64, .value = 2500, .id = kernel, .kind = RecordKind::launch});
  log.event(Action::free_requested, 0x1000000, 1000);
  log.event(Action::free_completed, 0x1000000, 1000);
  const auto runs = log.read();
  ASSERT_TRUE(runs) << to_string(runs.error());
  ASSERT_EQ(runs.value().size(), 1U);
  const Trace& trace = runs.value()[0].trace;
  EXPECT_EQ(kinds(trace), (std::vector{OpKind::allocate, OpKind::launch, OpKind::free}));
  EXPECT_EQ(trace.ops[1].value, 2500);
  EXPECT_EQ(trace.strings[trace.labels[1] - 1],
            "a kernel whose name is longer than one record holds");
  EXPECT_EQ(kinds(runs.value()[0].recorded), (std::vector{OpKind::allocate, OpKind::free}));
}

TEST(CapturedRun, KnowsTheStreamThatHoldsADroppedBuffer) {
  Log log;
  log.event(Action::segment_alloc, 0x1000000, 2 << 20);
  log.event(Action::alloc, 0x1000000, 1000);
  log.event(Action::free_requested, 0x1000000, 1000);
  // The allocator marks the end of what stream 0x7010 does with it, and gets it back later.
  log.put({.stream = 0x7010, .id = 3, .kind = RecordKind::record_event, .flags = kByAllocator});
  log.event(Action::alloc, 0x1000400, 512);
  log.event(Action::free_completed, 0x1000000, 1000);
  const auto runs = log.read();
  ASSERT_TRUE(runs) << to_string(runs.error());
  const Trace& trace = runs.value()[0].trace;
  ASSERT_EQ(kinds(trace),
            (std::vector{OpKind::allocate, OpKind::record_stream, OpKind::free, OpKind::allocate}));
  EXPECT_EQ(trace.streams[trace.ops[1].stream], 0x7010U);
}

TEST(CapturedRun, TakesAGuardsEventForNoUseOfABuffer) {
  // One library, two places: the allocator's at 0x50, its guards' at 0x90, whose events are waited
  // for, if not each of them.
  constexpr std::uint64_t kAllocator = 0x50;
  constexpr std::uint64_t kGuard = 0x90;
  Log log;
  const auto event = [&log](std::uint64_t site, std::uint64_t stream, std::uint32_t number) {
    log.put({.address = site,
             .stream = stream,
             .id = number,
             .kind = RecordKind::record_event,
             .flags = kByAllocator});
  };
  log.event(Action::segment_alloc, 0x1000000, 2 << 20);
  log.event(Action::alloc, 0x1000000, 1000);
  log.event(Action::free_requested, 0x1000000, 1000);
  event(kAllocator, 0x7010, 3);
  event(kGuard, 0x7020, 4);
  event(kGuard, 0x7030, 5);
  log.put({.stream = 0, .id = 5, .kind = RecordKind::wait_event});
  log.event(Action::free_completed, 0x1000000, 1000);
  const auto runs = log.read();
  ASSERT_TRUE(runs) << to_string(runs.error());
  const Trace& trace = runs.value()[0].trace;
  ASSERT_EQ(kinds(trace),
            (std::vector{OpKind::allocate, OpKind::record_stream, OpKind::free,
                         OpKind::record_event, OpKind::record_event, OpKind::wait_event}));
  EXPECT_EQ(trace.streams[trace.ops[1].stream], 0x7010U);
}

TEST(CapturedRun, NamesWhatTheForwardPassKeepsAndWhatOptimizersName) {
  Log log;
  const std::uint32_t step = log.text("step");
  log.event(Action::segment_alloc, 0x1000000, 2 << 20);
  log.event(Action::alloc, 0x1000000, 512);                // a parameter, as its optimizer says
  log.event(Action::alloc, 0x1000200, 512);                // lives when autograd's thread begins
  log.event(Action::alloc, 0x1000400, 512, /*thread=*/1);  // a gradient, as the optimizer says
  log.put(
      {.id = step, .kind = RecordKind::mark, .flags = static_cast<std::uint8_t>(MarkKind::phase)});
  log.put({.address = 0x1000000, .kind = RecordKind::category, .flags = 1});
  log.put({.address = 0x1000400, .kind = RecordKind::category, .flags = 2});
  const auto runs = log.read();
  ASSERT_TRUE(runs) << to_string(runs.error());
  const Trace& trace = runs.value()[0].trace;
  EXPECT_EQ(category_of(trace.ops[0]), Category::parameter);
  EXPECT_EQ(category_of(trace.ops[1]), Category::activation);
  EXPECT_EQ(category_of(trace.ops[2]), Category::gradient);
}

TEST(CapturedRun, RefusesWhatIsNoLog) {
  Log log;
  log.event(Action::segment_alloc, 0x1000000, 2 << 20);
  EXPECT_FALSE(log.read(50));  // cut within the head
  Log wrong;
  wrong.put({.id = 7, .kind = RecordKind::launch});  // names a text that is not there
  EXPECT_FALSE(wrong.read());
}

TEST(CapturedRun, OfAProcessThatAllocatedNothingIsNone) {
  Log log;
  log.text("nothing");
  const auto runs = log.read();
  ASSERT_TRUE(runs);
  EXPECT_TRUE(runs.value().empty());
}

}  // namespace
}  // namespace peakcast::capture
