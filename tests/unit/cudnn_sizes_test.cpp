#include "workloads/capture/cudnn_sizes.hpp"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

// All numbers: cuDNN 9.19.0 with a handle on an H200, driver 580.159, 2026-11-29.
namespace peakcast::capture::cudnn {
namespace {

constexpr std::int64_t kMultiprocessors = 132;

TEST(CudnnSizes, AGeneratorForEachThreadOfTheCard) {
  EXPECT_EQ(dropout_state_bytes(kMultiprocessors), 6488064);
}

TEST(CudnnSizes, LstmOfTheRecordedLanguageModel) {
  // programs/lstm_lm.py: two layers of 1024, batch 40, dropout 0.5, 35 steps.
  const RecurrentShape shape{.cell = 2,
                             .dropout = true,
                             .training = true,
                             .input = 1024,
                             .hidden = 1024,
                             .layers = 2,
                             .steps = 35,
                             .batch = 40};
  EXPECT_EQ(recurrent_weight_bytes(shape), 67174400);
  EXPECT_EQ(recurrent_reserve_bytes(shape), 63257856);
  EXPECT_EQ(recurrent_workspace(shape).bytes, 127304256);
  EXPECT_TRUE(recurrent_workspace(shape).exact);
}

TEST(CudnnSizes, InferenceKeepsNothing) {
  const RecurrentShape shape{
      .cell = 2, .input = 1024, .hidden = 1024, .layers = 2, .steps = 70, .batch = 40};
  EXPECT_EQ(recurrent_reserve_bytes(shape), 0);
  EXPECT_EQ(recurrent_workspace(shape).bytes, 155976256);
}

TEST(CudnnSizes, BothDirectionsDoubleWhatIsKept) {
  const RecurrentShape lstm{.cell = 2,
                            .bidirectional = true,
                            .dropout = true,
                            .training = true,
                            .input = 100,
                            .hidden = 100,
                            .layers = 2,
                            .steps = 50,
                            .batch = 16};
  EXPECT_EQ(recurrent_reserve_bytes(lstm), 7080256);
  RecurrentShape gru = lstm;
  gru.cell = 3;
  EXPECT_EQ(recurrent_reserve_bytes(gru), 8360256);
}

TEST(CudnnSizes, WhatIsNotMeasuredSaysSo) {
  RecurrentShape shape{
      .cell = 3, .training = true, .input = 64, .hidden = 64, .layers = 2, .steps = 10, .batch = 4};
  EXPECT_FALSE(recurrent_workspace(shape).exact);
  shape.training = false;
  EXPECT_TRUE(recurrent_workspace(shape).exact);
}

struct Norm {
  std::int64_t element_bytes, batch, channels, pixels, forward, backward;
};

TEST(CudnnSizes, NormsInChannelsLast) {
  for (const Norm& norm : std::vector<Norm>{{4, 64, 64, 112 * 112, 6473780, 4282916},
                                            {2, 64, 64, 112 * 112, 2590364, 4282916},
                                            {2, 64, 2048, 49, 331440, 541856},
                                            {4, 8, 3, 81, 1184, 1124},
                                            {4, 8, 65, 81, 8352, 5556},
                                            {2, 8, 30, 81, 2400, 2856}}) {
    const NormShape shape{.mode = 2,
                          .channels_last = true,
                          .element_bytes = norm.element_bytes,
                          .channels = norm.channels,
                          .rows = norm.batch * norm.pixels};
    EXPECT_EQ(norm_forward_workspace(shape, kMultiprocessors), norm.forward) << norm.channels;
    EXPECT_EQ(norm_backward_workspace(shape, kMultiprocessors), norm.backward) << norm.channels;
  }
}

TEST(CudnnSizes, NormsInOtherLayoutsNeedNothing) {
  EXPECT_EQ(norm_forward_workspace({.mode = 2, .channels = 64, .rows = 1 << 20}, kMultiprocessors),
            0);
  EXPECT_EQ(
      norm_forward_workspace({.mode = 1, .channels_last = true, .channels = 64, .rows = 1 << 20},
                             kMultiprocessors),
      0);
}

}  // namespace
}  // namespace peakcast::capture::cudnn
