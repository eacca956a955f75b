#include "sim/engine/cost_model.hpp"

#include <array>
#include <cstdlib>

#include <gtest/gtest.h>

namespace peakcast {
namespace {

const GpuCosts& h100() { return *find_gpu_costs("h100-80g"); }

/// Measured us of torch.mm on an H100 80GB HBM3 that has been at it for 1.5 s,
/// PyTorch 2.11.0+cu130, 2026-11-24.
struct Measured {
  std::int64_t m, n, k;
  MathUnit unit;
  std::int64_t element_bytes, alignment, microseconds;
};
constexpr std::array<Measured, 8> kMatmuls{{
    {8192, 4096, 1024, MathUnit::half, 2, 16, 111},
    {8192, 8192, 8192, MathUnit::half, 2, 16, 1618},
    {4096, 2048, 2048, MathUnit::half, 2, 16, 53},
    {2048, 11008, 4096, MathUnit::half, 2, 16, 290},
    {8192, 4096, 1024, MathUnit::tf32, 4, 16, 215},
    {8192, 8192, 8192, MathUnit::tf32, 4, 16, 3192},
    {4096, 2048, 2048, MathUnit::tf32, 4, 16, 107},
    {2048, 11008, 4096, MathUnit::tf32, 4, 16, 570},
}};

TEST(CostModel, MatrixProductsTakeWhatWasMeasuredWithin15Percent) {
  for (const Measured& row : kMatmuls) {
    const SimDuration model = matmul_time(h100(), {.m = row.m,
                                                   .n = row.n,
                                                   .k = row.k,
                                                   .unit = row.unit,
                                                   .element_bytes = row.element_bytes,
                                                   .row_alignment = row.alignment});
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
  const std::array<MeasuredAttention, 10> rows{{
      {{1, 32, 32768, 32768, 64, 2, true, false, false}, 9002},
      {{1, 32, 32768, 32768, 64, 2, true, false, true}, 25570},
      {{1, 32, 4096, 4096, 64, 2, true, false, false}, 182},
      {{1, 32, 4096, 4096, 64, 2, true, false, true}, 510},
      {{16, 16, 512, 512, 64, 2, false, true, false}, 112},
      {{16, 16, 512, 512, 64, 2, false, true, true}, 217},
      {{1, 12, 16384, 16384, 64, 2, true, true, false}, 2441},
      {{1, 12, 16384, 16384, 64, 2, true, true, true}, 3221},
      {{8, 16, 512, 512, 64, 4, false, true, false}, 362},
      {{8, 16, 512, 512, 64, 4, false, true, true}, 797},
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
  const SimDuration latency = h100().collective_floor + 7 * h100().link_latency;
  const std::int64_t wire =
      (size.count() * 7 / 8) * 1000 / (h100().link_bytes_per_second / 1'000'000);
  EXPECT_NEAR(static_cast<double>((gather - latency).count()), static_cast<double>(wire), 2.0);
  EXPECT_NEAR(static_cast<double>((reduce - latency).count()), 2.0 * static_cast<double>(wire),
              2.0);
}

TEST(CostModel, TheTableIsInNameOrder) {
  for (std::size_t row = 1; row < gpu_costs().size(); ++row) {
    EXPECT_LT(gpu_costs()[row - 1].name, gpu_costs()[row].name);
  }
  EXPECT_EQ(find_gpu_costs("h100"), nullptr);
}

}  // namespace
}  // namespace peakcast
