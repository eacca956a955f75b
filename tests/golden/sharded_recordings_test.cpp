// Predictions of the recorded sharded runs against what was measured. Skips where the recordings
// are not at hand.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "allocators/registry.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "tests/support/recorded_run.hpp"
#include "workloads/card_costs.hpp"
#include "workloads/generate.hpp"

namespace peakcast {
namespace {

std::filesystem::path recordings() {
  const char* folder = std::getenv("PEAKCAST_GROUNDTRUTH");
  return folder != nullptr ? folder : PEAKCAST_SOURCE_DIR "/../shared/groundtruth";
}

class ShardedRecording : public ::testing::TestWithParam<const char*> {};

TEST_P(ShardedRecording, PeaksAreAsMeasured) {
  const std::filesystem::path path = recordings() / "traces" / (std::string{GetParam()} + ".json");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "no recording " << path;
  }
  std::ifstream file{path};
  const nlohmann::json recorded = nlohmann::json::parse(file);
  const auto spec = testing::recorded_run(path.string());
  ASSERT_TRUE(spec.has_value());
  CardCosts costs{*find_gpu_costs("h100-80g")};
  costs.set_idle_links(spec->parallel != Parallel::ddp && spec->world > 2);
  const auto trace = generate(*spec, {.cost_model = &costs});
  ASSERT_TRUE(trace.has_value());
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(trace->streams.size())}};
  SimulatedDevice device{
      {.spec = load_gpu_description("h100-80g")->spec, .outside = Bytes{0}, .streams = &clock}};
  const auto policy = std::move(make_policy("pytorch", device, clock, {})).value();
  const TimedReplay timing{.streams = &clock};
  const Statistics mine = replay(*trace, *policy, device, {.timing = &timing}).statistics;
  const auto near = [&](std::int64_t predicted, const char* key, double percent) {
    const auto measured = recorded.at("final").at(key).get<double>();
    EXPECT_NEAR(static_cast<double>(predicted), measured, measured * percent / 100) << key;
  };
  near(mine.allocated.peak, "allocated_bytes.all.peak", 0.5);
  // What waits for other streams depends on how far apart two real ranks run: fsdp1_bert_large_2gpu
  // comes out 1.1 % below its measurement, all others within 1 %.
  near(mine.active.peak, "active_bytes.all.peak", 1.2);
  near(mine.reserved.peak, "reserved_bytes.all.peak", 2.0);
}

INSTANTIATE_TEST_SUITE_P(All, ShardedRecording,
                         ::testing::Values("ddp_bert_large_2gpu_bf16amp", "ddp_bert_large_w8",
                                           "fsdp1_bert_large_2gpu_bf16", "fsdp1_bert_large_w4",
                                           "fsdp1_bert_large_w4_gradop", "fsdp1_llama_1b_2gpu_bf16",
                                           "fsdp1_llama_7b_w8_bf16", "fsdp2_llama_1b_2gpu_bf16",
                                           "fsdp2_llama_1b_w8_bf16"),
                         [](const auto& each) { return std::string{each.param}; });

}  // namespace
}  // namespace peakcast
