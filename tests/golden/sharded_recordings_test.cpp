// Predictions of the recorded sharded runs against what was measured. Skips where the recordings
// are not at hand.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

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

/// A recorded run, predicted with the clock of its cards and of a host of this speed.
struct Predicted {
  nlohmann::json recorded{};  ///< what torch.cuda.memory_stats() said at the end
  Statistics statistics{};
};

Predicted predict(const std::filesystem::path& path, std::int64_t host_speed) {
  std::ifstream file{path};
  const nlohmann::json recorded = nlohmann::json::parse(file);
  const auto spec = testing::recorded_run(path.string());
  EXPECT_TRUE(spec.has_value());
  CardCosts costs{reference_gpu()};
  costs.set_idle_links(spec->parallel != Parallel::ddp && spec->world > 2);
  costs.set_host_speed(host_speed);
  const auto trace = generate(*spec, {.cost_model = &costs});
  EXPECT_TRUE(trace.has_value());
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(trace->streams.size())}};
  SimulatedDevice device{{.spec = reference_gpu().spec, .outside = Bytes{0}, .streams = &clock}};
  PolicyOptions options;
  if (recorded.contains("allowed_bytes")) {
    options.limit = Bytes{recorded["allowed_bytes"].get<std::int64_t>()};
  }
  const auto policy = std::move(make_policy("pytorch", device, clock, options)).value();
  const TimedReplay timing{.streams = &clock};
  return {recorded.at("final"), replay(*trace, *policy, device, {.timing = &timing}).statistics};
}

class ShardedRecording : public ::testing::TestWithParam<const char*> {};

TEST_P(ShardedRecording, PeaksAreAsMeasured) {
  const char* folder = std::getenv("PEAKCAST_GROUNDTRUTH");
  const std::filesystem::path path =
      std::filesystem::path{folder != nullptr ? folder
                                              : PEAKCAST_SOURCE_DIR "/../shared/groundtruth"} /
      "traces" / (std::string{GetParam()} + ".json");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "no recording " << path;
  }
  const Predicted predicted_run = predict(path, 100);
  const Statistics& mine = predicted_run.statistics;
  const auto near = [&](std::int64_t predicted, const char* key, double percent) {
    const auto measured = predicted_run.recorded.at(key).get<double>();
    EXPECT_NEAR(static_cast<double>(predicted), measured, measured * percent / 100) << key;
  };
  near(mine.allocated.peak, "allocated_bytes.all.peak", 0.5);
  // What waits for other streams depends on how far apart two real ranks run: in its third
  // iteration the recorded run of this one held 47 MiB more than before, a second run did not.
  const bool ranks_parted = std::string_view{GetParam()} == "fsdp1_bert_large_2gpu_bf16";
  near(mine.active.peak, "active_bytes.all.peak", ranks_parted ? 1.2 : 1.0);
  near(mine.reserved.peak, "reserved_bytes.all.peak", 2.0);
}

// How far the host runs ahead decides what waits for other streams, and under a cap when memory is
// released. From one gathered layer to the next this run's host took 4.59 ms forward and 5.65 back
// (medians of its times), the model's takes 2.54 and 3.83: 62 percent of its speed. Any from 50 to
// 82 gives the same.
TEST(CappedShardedRun, IsAsRecordedWithAHostOfItsSpeed) {
  for (const std::int64_t host_speed : {50, 62, 82}) {
    const auto [recorded, mine] =
        predict(PEAKCAST_TEST_DATA "/pressure_fsdp1_llama_7b_w8_cap25.json", host_speed);
    EXPECT_EQ(mine.active.peak, recorded.at("active_bytes.all.peak")) << host_speed;
    EXPECT_EQ(mine.reserved.peak, recorded.at("reserved_bytes.all.peak")) << host_speed;
    EXPECT_EQ(mine.num_alloc_retries, recorded.at("num_alloc_retries")) << host_speed;
  }
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
