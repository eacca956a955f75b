// Recordings of the real allocator: those that ship in tests/data, and all of ../shared/groundtruth
// where it is there (PEAKCAST_GROUNDTRUTH names another place).

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/trace/read_trace.hpp"
#include "tests/support/recorded_replay.hpp"

namespace peakcast {
namespace {

using support::Place;
using support::RecordedReplay;

std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// "" when the recording was reproduced to the byte.
std::string differences_of(const std::string& path) {
  const auto loaded = read_trace(path);
  if (!loaded) {
    return to_string(loaded.error()) + "\n";
  }
  std::string text;
  for (const std::string& difference :
       support::replay_recording(loaded->trace, Place::recorded).differences) {
    text += name_of(path) + ": " + difference + "\n";
  }
  return text;
}

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{popen(command.c_str(), "r"), pclose};
  std::string output;
  std::array<char, 4096> buffer{};
  while (pipe) {
    const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe.get());
    if (got == 0) {
      break;
    }
    output.append(buffer.data(), got);
  }
  return output;
}

TEST(Recordings, ThatShipAreReproducedToTheByte) {
  const std::vector<std::string> paths = support::recordings_in(support::data_folder());
  EXPECT_GE(paths.size(), 6U);
  for (const std::string& path : paths) {
    EXPECT_EQ(differences_of(path), "");
  }
}

TEST(Recordings, GiveTheSameBytesTwiceInOneProcessAndOnceMoreInAnother) {
  for (const std::string& path : support::recordings_in(support::data_folder())) {
    for (const auto& [place, word] :
         {std::pair{Place::recorded, "recorded"}, std::pair{Place::modelled, "modelled"}}) {
      const auto loaded = read_trace(path);
      ASSERT_TRUE(loaded.has_value());
      const RecordedReplay once = support::replay_recording(loaded->trace, place);
      const auto again = read_trace(path);
      EXPECT_EQ(once.events, support::replay_recording(again->trace, place).events);
      EXPECT_TRUE(once.events == output_of(std::string{PEAKCAST_PROGRAM} + " replay -q " + path +
                                           " --events-out - --addresses " + word))
          << path << ", addresses " << word;
    }
  }
}

// Recorded addresses are PyTorch's: a policy that asks for something else parts from them and goes
// on. A request that is refused to the end is an answer too.
TEST(Recordings, GoThroughEveryPolicyWithTheAddressesThatTheyHold) {
  for (const std::string& path : support::recordings_in(support::data_folder())) {
    for (const PolicyEntry& policy : policies()) {
      const std::string command = std::string{PEAKCAST_PROGRAM} + " replay -q " + path +
                                  " --policy " + std::string{policy.name} + " > /dev/null 2>&1";
      const int status = std::system(command.c_str());
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) <= 1) << command;
    }
  }
}

class Groundtruth : public testing::TestWithParam<const char*> {};

TEST_P(Groundtruth, IsReproducedToTheByte) {
  const auto folder = support::groundtruth_folder();
  if (!folder) {
    GTEST_SKIP() << "no recordings beside the source tree; PEAKCAST_GROUNDTRUTH names a folder";
  }
  std::size_t refused = 0;
  const std::vector<std::string> paths = support::recordings_in(*folder + "/" + GetParam());
  EXPECT_FALSE(paths.empty());
  for (const std::string& path : paths) {
    const std::string differences = differences_of(path);
    EXPECT_EQ(differences, "");
    const auto loaded = read_trace(path);
    const RecordedReplay replayed = support::replay_recording(loaded->trace, Place::recorded);
    if (replayed.refusals != 0) {
      ++refused;
      std::printf("%s: the recorded card refused %zu requests that the trace does not explain\n",
                  name_of(path).c_str(), replayed.refusals);
    }
  }
  std::printf("%zu recordings, %zu with refusals\n", paths.size(), refused);
}

// A tie of best fit breaks by address, and the model cannot know where the host's own memory leaves
// gaps for the driver's chunks: whole runs have the recorded peak nevertheless. The short two-layer
// runs of attributed/ do in 26 of 29 cases; what differs there is printed, not asserted.
TEST_P(Groundtruth, HasTheSamePeakWithModelledAddressesWhereThereIsNoPressure) {
  const auto folder = support::groundtruth_folder();
  if (!folder) {
    GTEST_SKIP() << "no recordings beside the source tree; PEAKCAST_GROUNDTRUTH names a folder";
  }
  const bool whole_runs = std::string_view{GetParam()} != "attributed";
  struct Count {
    std::size_t recordings{};
    std::size_t equal{};
  };
  std::array<Count, 2> counts{};  // without and under pressure
  for (const std::string& path : support::recordings_in(*folder + "/" + GetParam())) {
    const auto loaded = read_trace(path);
    ASSERT_TRUE(loaded.has_value()) << path;
    const RecordedReplay replayed = support::replay_recording(loaded->trace, Place::modelled);
    const bool equal = replayed.peak_reserved == replayed.recorded_peak_reserved;
    Count& count = counts.at(replayed.under_pressure ? 1 : 0);
    ++count.recordings;
    count.equal += equal ? 1 : 0;
    if (!equal) {
      std::printf("%s%s: peak reserved recorded %lld, replayed %lld\n", name_of(path).c_str(),
                  replayed.under_pressure ? ", under pressure" : "",
                  static_cast<long long>(replayed.recorded_peak_reserved),
                  static_cast<long long>(replayed.peak_reserved));
    }
    EXPECT_TRUE(equal || replayed.under_pressure || !whole_runs) << path;
  }
  std::printf("the recorded peak: %zu of %zu without pressure, %zu of %zu under pressure\n",
              counts[0].equal, counts[0].recordings, counts[1].equal, counts[1].recordings);
}

INSTANTIATE_TEST_SUITE_P(Folder, Groundtruth, testing::Values("traces", "fuzz", "attributed"),
                         [](const auto& folder) { return std::string{folder.param}; });

}  // namespace
}  // namespace peakcast
