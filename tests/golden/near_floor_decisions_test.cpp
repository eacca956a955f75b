#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/paced_streams.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/replay.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/repeat.hpp"
#include "tests/support/recorded_replay.hpp"

namespace peakcast {
namespace {

/// All that a policy told, as one number: each event's address, size, stream and kind, in order.
class Digest final : public EventSink {
 public:
  void on_event(const AllocatorEvent& event) override {
    add(event.address.value());
    add(static_cast<std::uint64_t>(event.size.count()));
    add(event.stream.value);
    add(static_cast<std::uint64_t>(event.action));
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  void add(std::uint64_t part) {
    value_ = (value_ ^ part) * 0x9e3779b97f4a7c15ULL;
    value_ ^= value_ >> 31U;
  }
  std::uint64_t value_{14695981039346656037ULL};
};

struct Decisions {
  const char* recording;
  std::uint64_t events;
  std::int64_t reserved;
  std::int64_t creates;
  std::int64_t maps;
};
std::ostream& operator<<(std::ostream& out, const Decisions& decisions) {
  return out << decisions.recording;
}

class NearFloorDecisions : public testing::TestWithParam<Decisions> {};

/// Where the policy `peakcast` puts each block of a recording and of four more of its last
/// iteration, and what it asks of the driver: what it did before its lists were made fast. A change
/// of a decision changes these numbers; a change that only makes it faster must not.
TEST_P(NearFloorDecisions, StayWhatTheyWere) {
  const Decisions& expected = GetParam();
  auto loaded = read_trace(support::data_folder() + "/" + expected.recording + ".csv.zst");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  Trace trace = std::move(loaded->trace);
  if (auto repeated = repeat_last_iteration(trace, 4)) {
    trace = std::move(repeated).value();
  }
  RecordedStreams streams{trace};
  SimulatedDeviceOptions options;
  options.spec.total = Bytes{std::int64_t{1} << 40};
  options.spec.granularity = Bytes{2 << 20};
  SimulatedDevice device{options};
  const auto policy = make_policy("peakcast", device, streams, {});
  ASSERT_TRUE(policy);
  Digest digest;
  policy.value()->set_sink(&digest);
  const ReplayReport report = replay(trace, *policy.value(), device, {.streams = &streams});
  EXPECT_EQ(digest.value(), expected.events) << std::hex << digest.value();
  EXPECT_EQ(report.statistics.reserved.peak, expected.reserved);
  EXPECT_EQ(report.device_calls.create, expected.creates);
  EXPECT_EQ(report.device_calls.map, expected.maps);
}

INSTANTIATE_TEST_SUITE_P(
    Recordings, NearFloorDecisions,
    testing::Values(Decisions{"attr_fsdp1_bert_w4", 0xd7f0d7bbaccc1f34, 664'797'184, 280, 809},
                    Decisions{"attr_fsdp2_llama_w8", 0xe960bbffafde3446, 2'027'945'984, 805, 2'646},
                    Decisions{"bert_large_fp32_b8_s128", 0xf0d4cca838d6082b, 6'924'795'904, 1'296,
                              1'443},
                    Decisions{"fuzz_006", 0xd8c1790f2bc919ae, 1'944'059'904, 552, 3'395},
                    Decisions{"fuzz_048", 0x88a5f60f43a55791, 27'262'976, 13, 17},
                    Decisions{"fuzz_072", 0xb1ea56b48ae0267a, 3'942'645'760, 1'261, 8'278},
                    Decisions{"pressure_fsdp1_llama_7b_w8_cap25", 0x6ac355c7831a561f,
                              24'693'964'800, 2'330, 5'983},
                    Decisions{"pressure_gpt2_long_s16384_ckpt_cap14", 0xbc5b67190dced295,
                              14'080'278'528, 1'868, 6'484}),
    [](const auto& test) { return std::string{test.param.recording}; });

}  // namespace
}  // namespace peakcast
