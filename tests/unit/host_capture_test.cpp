// Commands as functions: what they write comes back to the host, whichever thread wrote it.

#include <atomic>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "sim/app/command.hpp"
#include "sim/app/host.hpp"
#include "sim/app/parallel.hpp"

namespace peakcast::app {
namespace {

TEST(HostCapture, HoldsWhatHelperThreadsWrite) {
  Capture capture{{}};
  std::atomic<int> waiting{2};
  run_jobs(2, 2, [&](std::size_t) {
    --waiting;
    while (waiting > 0) {  // so that each thread takes one
    }
    write_stdout("x");
    write_stderr("y");
  });
  EXPECT_EQ(capture.take_out(), "xx");
  EXPECT_EQ(capture.take_notes(), "yy");
}

TEST(HostCapture, EndsWithItsObject) {
  { const Capture capture{{}}; }
  EXPECT_EQ(host_capture(), nullptr);
}

TEST(HostCapture, HoldsASweepsRowsInTheOrderOfTheGrid) {
  Capture capture{{.input = R"({"run": {"model": "bert-tiny", "seq": 16},
                                "grid": {"batch": [1, 2, 3, 4, 5, 6, 7, 8]}})"}};
  ASSERT_EQ(dispatch("peakcast", "", commands(),
                     std::vector<std::string>{"sweep", "-", "--format=json", "--jobs=4"}),
            kFits);
  const std::string rows = capture.take_out();
  std::size_t at = 0;
  for (int batch = 1; batch <= 8; ++batch) {
    at = rows.find("{\"batch\":" + std::to_string(batch) + "}", at);
    ASSERT_NE(at, std::string::npos) << "row " << batch << " of\n" << rows;
  }
}

TEST(HostCapture, SweepTellsItsProgress) {
  std::vector<std::int64_t> told;
  Capture capture{
      {.input = R"({"run": {"model": "bert-tiny", "seq": 16}, "grid": {"batch": [1, 2]}})",
       .progress = [&](std::string_view, std::int64_t done, std::int64_t total) {
         EXPECT_EQ(total, 2);
         told.push_back(done);
       }}};
  EXPECT_EQ(dispatch("peakcast", "", commands(), std::vector<std::string>{"sweep", "-"}), kFits);
  EXPECT_EQ(told, (std::vector<std::int64_t>{1, 2}));
}

TEST(HostCapture, RefusesToStartAProgram) {
  const Capture capture{{}};
  EXPECT_THROW(static_cast<void>(dispatch("peakcast", "", commands(),
                                          std::vector<std::string>{"capture", "--", "true"})),
               NeedsProcess);
}

TEST(RunJobs, BeginsNoJobAfterAFault) {
  std::atomic<int> begun{0};
  EXPECT_THROW(run_jobs(1000, 1,
                        [&](std::size_t i) {
                          ++begun;
                          if (i == 3) {
                            throw std::runtime_error{"three"};
                          }
                        }),
               std::runtime_error);
  EXPECT_EQ(begun, 4);
}

}  // namespace
}  // namespace peakcast::app
