// What cuMemAllocAsync answered on an H100 (driver 580.159.04, recorded on 2026-11-28 as
// `peakcast-cuda-check pool` does): the address and the pool's reserved memory of each allocation
// of the programs in tests/data/pool, at each pace of the card that a file names. The `trained_`
// ones are PyTorch 2.11.0's own training runs under backend:cudaMallocAsync, a library before
// libcudart writing down each call and letting the card write behind each free, to memory that the
// host reads, that it got there; reserved memory is known at the end of each iteration.
#include <string>

#include <gtest/gtest.h>

#include "cuda_check/pool_program.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/scripted_streams.hpp"

namespace peakcast {
namespace {

using namespace literals;

class RecordedPool : public ::testing::TestWithParam<const char*> {};

TEST_P(RecordedPool, IsSimulatedAddressByAddress) {
  const auto program =
      read_pool_program(std::string{PEAKCAST_TEST_DATA "/pool/"} + GetParam() + ".csv.zst");
  ASSERT_TRUE(program) << to_string(program.error());
  ASSERT_FALSE(program->answers.empty());
  for (const auto& [pace, recorded] : program->answers) {
    const auto simulated = simulate_pool_program(*program, pace, {.name = "card", .total = 80_GiB});
    ASSERT_TRUE(simulated);
    ASSERT_EQ(simulated->size(), recorded.size());
    ASSERT_GT(recorded.size(), 1000U);
    for (std::size_t i = 0; i < recorded.size(); ++i) {
      ASSERT_EQ((*simulated)[i].offset, recorded[i].offset)
          << to_string(pace) << ", allocation " << i;
      if (recorded[i].reserved != Bytes{}) {
        ASSERT_EQ((*simulated)[i].reserved, recorded[i].reserved)
            << to_string(pace) << ", allocation " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Programs, RecordedPool,
                         ::testing::Values("bert_large_varlen", "random", "random_trims",
                                           "random_two_streams", "trained_bert_large_fp16amp",
                                           "trained_gpt2_long", "trained_llama_1b_ckpt"));

// On the card too: 500 MiB were free beside a pool of 1 GiB, the card held back.
TEST(FullPool, KeepsWhatItGotBeforeTheCardWasFull) {
  support::ScriptedStreams streams;
  SimulatedDevice device{{.spec = {.name = "card", .total = 1524_MiB}, .streams = &streams}};
  const StreamId stream{0};
  const auto first = device.pool_allocate(1_GiB, stream);
  ASSERT_TRUE(first);
  device.pool_free(*first, stream);
  // The card has not passed the free: its range is too small, and 41 chunks are not to be had.
  EXPECT_FALSE(device.pool_allocate(1300_MiB, stream));
  EXPECT_EQ(device.pool_reserved(), 1504_MiB);
  EXPECT_EQ(device.pool_allocate(700_MiB, stream), first);
}

TEST(FullPool, LetsAnotherStreamWaitForARangeOnlyThen) {
  support::ScriptedStreams streams;
  SimulatedDevice device{{.spec = {.name = "card", .total = 1524_MiB}, .streams = &streams}};
  const auto first = device.pool_allocate(1_GiB, StreamId{0});
  ASSERT_TRUE(first);
  device.pool_free(*first, StreamId{0});
  const auto beside = device.pool_allocate(64_MiB, StreamId{1});
  ASSERT_TRUE(beside);
  EXPECT_NE(beside, first);
  EXPECT_EQ(device.pool_allocate(700_MiB, StreamId{1}), first);
}

}  // namespace
}  // namespace peakcast
