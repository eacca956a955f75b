#include "sim/engine/cost_model.hpp"

#include <algorithm>
#include <array>

#include "sim/core/check.hpp"
#include "sim/device/gpu_description.hpp"

namespace peakcast {
namespace {

constexpr std::int64_t kGiga = 1'000'000'000;

// A host path between cards without links: PCIe 4.0 x16, payload per direction.
constexpr std::int64_t kHostPathBytesPerSecond = 20 * kGiga;

/// Wide arithmetic is the one extension that rates need.
__extension__ using Wide = __int128;

/// amount / rate seconds in ns, rounded up.
SimDuration duration_of(Wide amount, std::int64_t per_second) {
  check(amount >= 0 && per_second > 0, "work is not negative and rates are positive");
  const Wide nanoseconds = (amount * kGiga + per_second - 1) / per_second;
  check(nanoseconds <= INT64_MAX, "a duration fits 64 bits");
  return SimDuration{static_cast<std::int64_t>(nanoseconds)};
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Tensor cores take bf16 and tf32 from compute capability 8.0 on; before, the fp32 units do it.
MathUnit unit_on(const GpuDescription& gpu, MathUnit unit) {
  return gpu.spec.compute_major < 8 && unit != MathUnit::fp16 ? MathUnit::single : unit;
}

std::int64_t rate_of(const GpuRates& rates, MathUnit unit) {
  switch (unit) {
    case MathUnit::bf16:
      return rates.bf16_flops_per_second;
    case MathUnit::fp16:
      return rates.fp16_flops_per_second;
    case MathUnit::tf32:
      return rates.tf32_flops_per_second;
    case MathUnit::single:
      return rates.fp32_flops_per_second;
  }
  check(false, "a math unit");
  return 1;
}

/// Rows that are not multiples of 16 bytes cannot use the bulk copy engine; below 4 bytes not even
/// the asynchronous copy, and worse when it is the result's rows. Shares of the rate in parts per
/// thousand. Measured, h100-80g, in profiles: 8192 x 30522 x 1024 in bf16 (4-byte rows) 254, in
/// tf32 (8-byte rows) 114 to 133, 16384 x 50257 x 768 in tf32 (4-byte rows) 118 to 132, in bf16
/// (2-byte rows) 143 to 154, and 96 TFLOP/s when 50257 is the result's width.
constexpr std::int64_t kUnaligned = 300;
constexpr std::int64_t kTwoByteRows = 175;
constexpr std::int64_t kTwoByteResult = 113;
/// tf32's instructions take operands whose inner dimension is contiguous; the gradient of a weight
/// has neither. Measured: 4096 x 1024 x 8192 259 us, 8192 x 2048 x 2048 275 us.
constexpr std::int64_t kTf32InnerStrided = 640;
/// A tf32 tile's prologue and epilogue move twice the bytes and convert: 2048 x 1024 x 1024 in one
/// wave 17 us, 8192 x 1024 x 1024 in two 57 us.
constexpr std::int64_t kTf32Overhead = 3;

/// Of the rate, in parts per thousand.
std::int64_t share_of(const Matmul& work, MathUnit unit) {
  if (unit == MathUnit::single) {
    return 1000;
  }
  if (work.row_alignment < 4) {
    return work.n * work.element_bytes % 4 != 0 ? kTwoByteResult : kTwoByteRows;
  }
  if (work.row_alignment < 16) {
    return kUnaligned;
  }
  return unit == MathUnit::tf32 && work.inner_strided ? kTf32InnerStrided : 1000;
}

}  // namespace

SimDuration streaming_time(const GpuDescription& gpu, Bytes moved) {
  const bool cached = moved.count() <= gpu.l2_cache.count() / 3 * 2;
  return gpu.rates.kernel_floor +
         duration_of(moved.count(),
                     cached ? gpu.rates.cache_bytes_per_second : gpu.rates.device_bytes_per_second);
}

SimDuration host_copy_time(const GpuDescription& gpu, HostCopy direction, Bytes moved) {
  return gpu.rates.kernel_floor +
         duration_of(moved.count(), direction == HostCopy::to_device
                                        ? gpu.rates.host_to_device_bytes_per_second
                                        : gpu.rates.device_to_host_bytes_per_second);
}

SimDuration indexing_time(const GpuDescription& gpu, std::int64_t elements,
                          std::int64_t per_second) {
  return gpu.rates.kernel_floor + duration_of(elements, per_second * gpu.multiprocessors);
}

SimDuration matmul_time(const GpuDescription& gpu, const Matmul& work) {
  check(work.m >= 0 && work.n >= 0 && work.k >= 0 && work.batch >= 0, "dimensions of a product");
  struct Tile {
    std::int64_t m, n;
  };
  // Tile shapes of the libraries' kernels, from the profiled kernels' names.
  constexpr std::array<Tile, 6> kTiles{
      {{256, 128}, {128, 256}, {128, 128}, {128, 64}, {64, 128}, {64, 64}}};
  const MathUnit unit = unit_on(gpu, work.unit);
  const std::int64_t per_multiprocessor = std::max<std::int64_t>(
      1, rate_of(gpu.rates, unit) / 1000 * share_of(work, unit) / gpu.multiprocessors);
  const SimDuration overhead =
      gpu.rates.tile_overhead * (unit == MathUnit::tf32 ? kTf32Overhead : 1);
  SimDuration best = SimDuration::max();
  for (const Tile tile : kTiles) {
    const std::int64_t tiles = ceil_div(work.m, tile.m) * ceil_div(work.n, tile.n) * work.batch;
    // Few tiles and a long inner dimension: it is split, so that all multiprocessors work.
    const std::int64_t splits =
        std::clamp<std::int64_t>(gpu.multiprocessors / std::max<std::int64_t>(1, tiles), 1,
                                 std::max<std::int64_t>(1, work.k / 1024));
    const std::int64_t waves = ceil_div(tiles * splits, gpu.multiprocessors);
    const SimDuration one =
        overhead * splits +
        duration_of(Wide{2} * tile.m * tile.n * ceil_div(work.k, splits), per_multiprocessor);
    best = std::min(best, waves * one);
  }
  const Wide elements =
      (Wide{work.m} * work.k + Wide{work.k} * work.n + Wide{work.m} * work.n) * work.batch;
  const Wide bytes = elements * work.element_bytes;
  const SimDuration memory =
      duration_of(bytes, bytes <= gpu.l2_cache.count() ? gpu.rates.cache_bytes_per_second
                                                       : gpu.rates.device_bytes_per_second);
  return gpu.rates.kernel_floor + std::max(best, memory);
}

namespace {

/// Share of the matrix rate that fused attention kernels reach, in parts per thousand; what they
/// move comes on top. Measured on h100-80g in profiles of training steps (cuDNN's kernels for bf16,
/// the memory-efficient ones for fp32; forward / backward in us): [1,32,32768,64] causal 9501 /
/// 27218; [1,32,4096,64] causal 184 / 528; [4,14,1024,64] causal 31 / 109; [64,16,197,64] 61 / 230;
/// with dropout [1,12,16384,64] causal 2413 / 3187, [16,16,512,64] 110 / 212, [8,16,1024,64] causal
/// 134 / 240; fp32 with dropout [8,16,1024,64] causal 820 / 1703, [32,16,256,64] 377 / 757.
std::int64_t attention_share(const AttentionWork& work) {
  if (work.unit == MathUnit::tf32) {
    return work.backward ? 70 : 55;
  }
  if (work.dropout) {
    return work.backward ? 400 : 205;
  }
  return work.backward ? 476 : 545;
}

}  // namespace

SimDuration attention_time(const GpuDescription& gpu, const AttentionWork& work) {
  const std::int64_t matrix_rate = rate_of(gpu.rates, unit_on(gpu, work.unit));
  const bool half = work.unit == MathUnit::bf16 || work.unit == MathUnit::fp16;
  const std::int64_t element_bytes = half ? 2 : 4;
  // Forward: two products of 2*S*T*D; backward: five (scores again, and four gradients).
  const std::int64_t products = work.backward ? 5 : 2;
  Wide flops = Wide{2} * products * work.batch * work.heads * work.query_length * work.key_length *
               work.head_dim;
  if (work.causal) {
    flops /= 2;
  }
  // Rows of one head. Forward: q, k, v in and the output out. Backward: those, the gradients of all
  // four, output and gradient once more for their product, and the fp32 sums of dQ three times
  // (cleared, added to, converted).
  const Wide rows = Wide{work.batch} * work.heads * work.head_dim;
  const Wide elements = rows * 2 * (work.query_length + work.key_length);
  Wide moved = elements * element_bytes;
  if (work.backward) {
    moved = 2 * moved + rows * work.query_length * (2 * element_bytes + std::int64_t{3} * 4);
  }
  const std::int64_t kernels = work.backward ? 3 : 1;
  const std::int64_t rate = std::max<std::int64_t>(1, matrix_rate / 1000 * attention_share(work));
  return kernels * gpu.rates.kernel_floor + duration_of(flops, rate) +
         duration_of(moved, gpu.rates.device_bytes_per_second);
}

SimDuration collective_time(const GpuDescription& gpu, const CollectiveWork& work) {
  check(work.ranks > 0, "a collective has ranks");
  if (work.ranks == 1) {
    return streaming_time(gpu, work.bytes);  // a copy, or nothing
  }
  const bool in_node = work.ranks <= gpu.rates.cards_per_node;
  const std::int64_t link = gpu.rates.link_bytes_per_second > 0 ? gpu.rates.link_bytes_per_second
                                                                : kHostPathBytesPerSecond;
  // Across nodes a ring is as fast as its slowest hop. Every card has its own network port, and a
  // node's cards carry one ring each.
  const std::int64_t rate =
      in_node ? link
              : static_cast<std::int64_t>(std::min<Wide>(
                    link, Wide{gpu.rates.network_bytes_per_second} * gpu.rates.cards_per_node));
  const Wide passes = work.kind == Collective::all_reduce ? 2 : 1;
  const Wide moved = work.kind == Collective::broadcast
                         ? Wide{work.bytes.count()}
                         : passes * work.bytes.count() * (work.ranks - 1) / work.ranks;
  // Latency: inside a node every rank is a step; between nodes the library's tree or the pipelined
  // ring pays the network once per doubling of the nodes.
  const std::int64_t inner_steps = std::min(work.ranks, gpu.rates.cards_per_node) - 1;
  std::int64_t doublings = 0;
  for (std::int64_t nodes = ceil_div(work.ranks, gpu.rates.cards_per_node); nodes > 1;
       nodes = ceil_div(nodes, 2)) {
    ++doublings;
  }
  return gpu.rates.collective_floor + inner_steps * gpu.rates.link_latency +
         doublings * gpu.rates.network_latency + duration_of(moved, rate);
}

}  // namespace peakcast
