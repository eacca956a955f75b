#include "sim/engine/cost_model.hpp"

#include <array>
#include <cstdlib>

#include <gtest/gtest.h>

#include "sim/device/gpu_description.hpp"

namespace peakcast {
namespace {

const GpuDescription& h100() { return reference_gpu(); }

/// Measured us of products in training steps (the profiler's kernel times), H100 80GB HBM3,
/// PyTorch 2.11.0+cu130, 2026-11-26.
struct Measured {
  std::int64_t m, n, k;
  MathUnit unit;
  std::int64_t element_bytes, alignment;
  bool inner_strided;
  std::int64_t microseconds;
};
constexpr std::array<Measured, 12> kMatmuls{{
    {8192, 4096, 1024, MathUnit::bf16, 2, 16, false, 96},
    {32768, 8192, 2048, MathUnit::bf16, 2, 16, false, 1404},
    {4096, 2048, 2048, MathUnit::bf16, 2, 16, false, 46},
    {2048, 2048, 32768, MathUnit::bf16, 2, 16, true, 326},
    {8192, 30522, 1024, MathUnit::bf16, 2, 4, false, 2014},
    {16384, 50257, 768, MathUnit::bf16, 2, 2, false, 13119},
    {16384, 768, 50257, MathUnit::bf16, 2, 2, false, 8851},
    {8192, 4096, 1024, MathUnit::tf32, 4, 16, false, 192},
    {8192, 1024, 4096, MathUnit::tf32, 4, 16, false, 170},
    {4096, 1024, 8192, MathUnit::tf32, 4, 16, true, 259},
    {8192, 2048, 2048, MathUnit::tf32, 4, 16, true, 275},
    {8192, 30522, 1024, MathUnit::tf32, 4, 8, false, 4017},
}};

TEST(CostModel, MatrixProductsTakeWhatWasMeasuredWithin15Percent) {
  for (const Measured& row : kMatmuls) {
    const SimDuration model = matmul_time(h100(), {.m = row.m,
                                                   .n = row.n,
                                                   .k = row.k,
                                                   .unit = row.unit,
                                                   .element_bytes = row.element_bytes,
                                                   .row_alignment = row.alignment,
                                                   .inner_strided = row.inner_strided});
    EXPECT_NEAR(static_cast<double>(model.count()) / 1000.0, static_cast<double>(row.microseconds),
                0.15 * static_cast<double>(row.microseconds) + 1.0)
        << row.m << " x " << row.n << " x " << row.k;
  }
}

TEST(CostModel, CopiesRunAtTheBandwidthTheyWereMeasuredAt) {
  // Tensor.copy_ of 2^28 fp32 reads and writes 2^31 bytes: 713 us; 2^22 stays in the cache: 9.0 us.
  EXPECT_NEAR(static_cast<double>(streaming_time(h100(), Bytes{1LL << 31}).count()), 713e3, 15e3);
  EXPECT_NEAR(static_cast<double>(streaming_time(h100(), Bytes{1LL << 25}).count()), 9.0e3, 0.9e3);
}

struct MeasuredAttention {
  AttentionWork work;
  std::int64_t microseconds;
};
TEST(CostModel, AttentionTakesWhatWasMeasuredWithin25Percent) {
  const std::array<MeasuredAttention, 14> rows{{
      {{1, 32, 32768, 32768, 64, MathUnit::bf16, true, false, false}, 9502},
      {{1, 32, 32768, 32768, 64, MathUnit::bf16, true, false, true}, 27218},
      {{1, 32, 4096, 4096, 64, MathUnit::bf16, true, false, false}, 184},
      {{1, 32, 4096, 4096, 64, MathUnit::bf16, true, false, true}, 528},
      {{4, 16, 2048, 2048, 64, MathUnit::bf16, true, false, false}, 99},
      {{4, 16, 2048, 2048, 64, MathUnit::bf16, true, false, true}, 325},
      {{16, 16, 512, 512, 64, MathUnit::bf16, false, true, false}, 110},
      {{16, 16, 512, 512, 64, MathUnit::bf16, false, true, true}, 212},
      {{1, 12, 16384, 16384, 64, MathUnit::bf16, true, true, false}, 2413},
      {{1, 12, 16384, 16384, 64, MathUnit::bf16, true, true, true}, 3187},
      {{32, 16, 256, 256, 64, MathUnit::tf32, false, true, false}, 377},
      {{32, 16, 256, 256, 64, MathUnit::tf32, false, true, true}, 757},
      {{8, 16, 1024, 1024, 64, MathUnit::tf32, true, true, false}, 820},
      {{8, 16, 1024, 1024, 64, MathUnit::tf32, true, true, true}, 1703},
  }};
  for (const MeasuredAttention& row : rows) {
    const SimDuration model = attention_time(h100(), row.work);
    EXPECT_NEAR(static_cast<double>(model.count()) / 1000.0, static_cast<double>(row.microseconds),
                0.25 * static_cast<double>(row.microseconds))
        << row.work.query_length << " backward " << row.work.backward;
  }
}

TEST(CostModel, AnAllGatherMovesAllButOneSharePerRankAndAnAllReduceTwice) {
  // 8 ranks, 1 GiB: 7/8 of it over one link, above the latencies.
  const Bytes size{1LL << 30};
  const SimDuration gather =
      collective_time(h100(), {.kind = Collective::all_gather, .bytes = size, .ranks = 8});
  const SimDuration reduce =
      collective_time(h100(), {.kind = Collective::all_reduce, .bytes = size, .ranks = 8});
  const SimDuration latency = h100().rates.collective_floor + 7 * h100().rates.link_latency;
  const std::int64_t wire =
      (size.count() * 7 / 8) * 1000 / (h100().rates.link_bytes_per_second / 1'000'000);
  EXPECT_NEAR(static_cast<double>((gather - latency).count()), static_cast<double>(wire), 2.0);
  EXPECT_NEAR(static_cast<double>((reduce - latency).count()), 2.0 * static_cast<double>(wire),
              2.0);
}

}  // namespace
}  // namespace peakcast
