#include "sim/device/gpu_description.hpp"

#include <gtest/gtest.h>

#include "sim/core/embedded.hpp"

namespace peakcast {
namespace {

TEST(GpuDescription, EveryBuiltInCardIsValid) {
  for (const EmbeddedFile& file : embedded_gpus()) {
    const auto gpu = load_gpu_description(std::string{file.name});
    ASSERT_TRUE(gpu) << to_string(gpu.error());
    EXPECT_EQ(gpu->name, file.name);
    for (const OutsideItem& item : gpu->outside) {
      EXPECT_FALSE(item.source.empty()) << file.name << " " << item.item;
    }
  }
}

// 787,283,968 bytes lay outside the allocator in the recorded fp32 runs on one H100, 804,061,184 in
// those with cuDNN attention, 1,378,680,832 with one NCCL rank.
TEST(GpuDescription, TheH100sTableAddsUpToWhatWasMeasured) {
  const auto gpu = load_gpu_description("h100-80g");
  ASSERT_TRUE(gpu);
  const auto sum = [&](const OutsideUse& use) {
    Bytes bytes;
    for (const OutsideItem& item : outside_items(*gpu, use)) {
      const bool other_card = item.item.starts_with("zero");  // two H200
      EXPECT_NE(item.measured, other_card) << item.item;
      bytes += item.size;
    }
    return bytes.count();
  };
  EXPECT_EQ(sum({}), 787283968);
  EXPECT_EQ(sum({.cudnn_attention = true}), 804061184);
  EXPECT_EQ(sum({.nccl_ranks = 1}), 1378680832);
  EXPECT_EQ(sum({.cudnn_attention = true, .parallel = OutsideWhen::sharding}), 877461504);
  // Two ranks, bf16: FSDP 1614.875 MiB, DDP 4 MiB more; ZeRO 200 and 486 MiB more than DDP.
  const auto two_ranks = [&](OutsideWhen parallel) {
    return sum({.cudnn_attention = true, .parallel = parallel, .nccl_ranks = 2});
  };
  EXPECT_EQ(two_ranks(OutsideWhen::sharding), 1693319168);
  EXPECT_EQ(two_ranks(OutsideWhen::ddp), 1697513472);
  EXPECT_EQ(two_ranks(OutsideWhen::zero_1_2), 1697513472 + (200LL << 20));
  EXPECT_EQ(two_ranks(OutsideWhen::zero_3), 1697513472 + (486LL << 20));
}

TEST(GpuDescription, ACardsOwnContextReplacesTheReferences) {
  const auto gpu = parse_gpu_description(
      R"({"card": "X", "total_bytes": 1000000000, "compute_major": 9, "compute_minor": 0,
          "multiprocessors": 132,
          "context_bytes": 7})",
      "x.json");
  ASSERT_TRUE(gpu) << to_string(gpu.error());
  ASSERT_EQ(gpu->outside.front().item, "context");
  EXPECT_EQ(gpu->outside.front().size, Bytes{7});
  EXPECT_TRUE(gpu->outside.front().measured);
  EXPECT_FALSE(gpu->outside.back().measured);
}

TEST(GpuDescription, OneErrorNamesTheField) {
  const auto message = [](const char* json) {
    const auto gpu = parse_gpu_description(json, "x.json");
    return gpu ? std::string{"no error"} : to_string(gpu.error());
  };
  EXPECT_EQ(message("{\n  oops"), "x.json:2:3: not valid JSON");
  EXPECT_EQ(message("{\n  \"total_bytes\": 1e999}"), "x.json:2:18: a number that no double holds");
  EXPECT_EQ(message("{}"), "x.json: field 'total_bytes' is missing");
  EXPECT_EQ(message(R"({"total_bytes": -1})"),
            "x.json: field 'total_bytes' is not a whole number in 1..70368744177664");
  EXPECT_EQ(to_string(load_gpu_description("h100-80").error()),
            "unknown GPU 'h100-80'; the nearest is 'h100-80g', and there is no such file");
}

TEST(GpuDescription, IsFoundByTheNamesThatPeopleWrite) {
  const auto name = [](const char* word) {
    const auto gpu = load_gpu_description(word);
    return gpu ? gpu->name : to_string(gpu.error());
  };
  for (const char* word : {"rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "rtx4090-24gb"}) {
    EXPECT_EQ(name(word), "rtx4090-24g") << word;
  }
  EXPECT_EQ(name("A10"), "a10-24g");
  EXPECT_EQ(name("A100 80GB"), "a100-80g");
  EXPECT_EQ(name("NVIDIA H100 80GB HBM3"), "h100-80g");
  EXPECT_EQ(name("a100"),
            "unknown GPU 'a100'; there are: a100-40g, a100-80g, and there is no such file");
  EXPECT_EQ(name("a100-81g"),
            "unknown GPU 'a100-81g'; there are: a100-40g, a100-80g, and there is no such file");
  EXPECT_EQ(name("gtx1080"), "unknown GPU 'gtx1080', and there is no such file");
}

}  // namespace
}  // namespace peakcast
