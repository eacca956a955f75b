#include "sim/engine/cost_model.hpp"

#include <algorithm>
#include <array>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

constexpr std::int64_t kTera = 1'000'000'000'000;
constexpr std::int64_t kGiga = 1'000'000'000;
constexpr std::int64_t kMiB = 1 << 20;

// h100-80g is measured; the others take their vendor's peak figures times the share of the peak
// that the measured card reaches: half 850 of 989 TFLOP/s (86 %), tf32 430 of 495 (87 %),
// memory 3.01 of 3.35 TB/s (90 %), L2 and the floors as measured. Links: 80 % of the data sheet's
// payload per direction.
//
// How to measure again (PyTorch 2.11.0+cu130, driver 580.159.04, 2026-11-24 and -26):
//   half, tf32      the profiler's times of long products in training steps: 2048 x 2048 x 32768 in
//                   bf16 326 us, 8192 x 1024 x 4096 in tf32 170 us. (The same products in a row for
//                   seconds run into the card's power limit: 709 and 357 TFLOP/s.)
//   tile_overhead   8192 x 4096 x 1024 in bf16: 96 us = 8 waves of 256 x 128 tiles
//   memory, cache   Tensor.copy_ of 2^28 fp32: 715 us; of 2^22: 9.0 us
//   kernel_floor    Tensor.copy_ of 1024 fp32: 2.19 us
// Collectives were not measured by us on more than one card: NVLink 4 is 450 GB/s per direction
// (H100 data sheet), NDR InfiniBand 400 Gb/s a card (DGX H100 data sheet), latencies from NCCL's
// own tuning tables (src/graph/tuning.cc, simple protocol: base 8.4 us, NVLink ring step 3.4 us,
// network step 14 us).
constexpr std::array<GpuCosts, 10> kGpus{{
    {"a100-40g", 108, 268 * kTera, 136 * kTera, 16 * kTera, 1397 * kGiga, 3200 * kGiga, 40 * kMiB,
     240 * kGiga, 20 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400}, "NVIDIA A100 data sheet; shares of h100-80g"},
    {"a100-80g", 108, 268 * kTera, 136 * kTera, 16 * kTera, 1832 * kGiga, 3200 * kGiga, 40 * kMiB,
     240 * kGiga, 20 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400}, "NVIDIA A100 data sheet; shares of h100-80g"},
    {"b200-180g", 148, 1935 * kTera, 978 * kTera, 66 * kTera, 7186 * kGiga, 9000 * kGiga,
     126 * kMiB, 720 * kGiga, 40 * kGiga, 8, SimDuration{2200}, SimDuration{1100},
     SimDuration{3400}, SimDuration{14000}, SimDuration{8400},
     "NVIDIA DGX B200 data sheet; shares of h100-80g"},
    {"h100-80g", 132, 850 * kTera, 430 * kTera, 55 * kTera, 3010 * kGiga, 4900 * kGiga, 50 * kMiB,
     360 * kGiga, 40 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400},
     "measured on an H100 80GB HBM3 (SXM); links: data sheet"},
    {"h200-141g", 132, 850 * kTera, 430 * kTera, 55 * kTera, 4313 * kGiga, 4900 * kGiga, 50 * kMiB,
     360 * kGiga, 40 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400}, "NVIDIA H200 data sheet; shares of h100-80g"},
    {"l4-24g", 58, 104 * kTera, 52 * kTera, 25 * kTera, 269 * kGiga, 1200 * kGiga, 48 * kMiB, 0,
     10 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{10000}, SimDuration{14000},
     SimDuration{8400}, "NVIDIA L4 data sheet; shares of h100-80g"},
    {"l40s-48g", 142, 311 * kTera, 157 * kTera, 76 * kTera, 776 * kGiga, 3600 * kGiga, 96 * kMiB, 0,
     10 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{10000}, SimDuration{14000},
     SimDuration{8400}, "NVIDIA L40S data sheet; shares of h100-80g"},
    {"rtx4090-24g", 128, 142 * kTera, 72 * kTera, 69 * kTera, 906 * kGiga, 3600 * kGiga, 72 * kMiB,
     0, 1 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{10000}, SimDuration{14000},
     SimDuration{8400}, "NVIDIA Ada GPU architecture white paper; shares of h100-80g"},
    {"v100-16g", 80, 107 * kTera, 13 * kTera, 13 * kTera, 808 * kGiga, 2000 * kGiga, 6 * kMiB,
     120 * kGiga, 10 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400}, "NVIDIA V100 data sheet; shares of h100-80g"},
    {"v100-32g", 80, 107 * kTera, 13 * kTera, 13 * kTera, 808 * kGiga, 2000 * kGiga, 6 * kMiB,
     120 * kGiga, 10 * kGiga, 8, SimDuration{2200}, SimDuration{1100}, SimDuration{3400},
     SimDuration{14000}, SimDuration{8400}, "NVIDIA V100 data sheet; shares of h100-80g"},
}};

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

std::int64_t rate_of(const GpuCosts& gpu, MathUnit unit) {
  switch (unit) {
    case MathUnit::half:
      return gpu.half_flops_per_second;
    case MathUnit::tf32:
      return gpu.tf32_flops_per_second;
    case MathUnit::single:
      return gpu.single_flops_per_second;
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
std::int64_t share_of(const Matmul& work) {
  if (work.unit == MathUnit::single) {
    return 1000;
  }
  if (work.row_alignment < 4) {
    return work.n * work.element_bytes % 4 != 0 ? kTwoByteResult : kTwoByteRows;
  }
  if (work.row_alignment < 16) {
    return kUnaligned;
  }
  return work.unit == MathUnit::tf32 && work.inner_strided ? kTf32InnerStrided : 1000;
}

}  // namespace

std::span<const GpuCosts> gpu_costs() { return kGpus; }

const GpuCosts* find_gpu_costs(std::string_view name) {
  const auto* const found = std::find_if(kGpus.begin(), kGpus.end(),
                                         [&](const GpuCosts& gpu) { return gpu.name == name; });
  return found == kGpus.end() ? nullptr : found;
}

SimDuration streaming_time(const GpuCosts& gpu, Bytes moved) {
  const bool cached = moved.count() <= gpu.cache_bytes / 3 * 2;
  return gpu.kernel_floor + duration_of(moved.count(), cached ? gpu.cache_bytes_per_second
                                                              : gpu.memory_bytes_per_second);
}

SimDuration indexing_time(const GpuCosts& gpu, std::int64_t elements, std::int64_t per_second) {
  return gpu.kernel_floor + duration_of(elements, per_second * gpu.multiprocessors);
}

SimDuration matmul_time(const GpuCosts& gpu, const Matmul& work) {
  check(work.m >= 0 && work.n >= 0 && work.k >= 0 && work.batch >= 0, "dimensions of a product");
  struct Tile {
    std::int64_t m, n;
  };
  // Tile shapes of the libraries' kernels, from the profiled kernels' names.
  constexpr std::array<Tile, 6> kTiles{
      {{256, 128}, {128, 256}, {128, 128}, {128, 64}, {64, 128}, {64, 64}}};
  const std::int64_t per_multiprocessor = std::max<std::int64_t>(
      1, rate_of(gpu, work.unit) / 1000 * share_of(work) / gpu.multiprocessors);
  const SimDuration overhead =
      gpu.tile_overhead * (work.unit == MathUnit::tf32 ? kTf32Overhead : 1);
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
  const SimDuration memory = duration_of(
      bytes, bytes <= gpu.cache_bytes ? gpu.cache_bytes_per_second : gpu.memory_bytes_per_second);
  return gpu.kernel_floor + std::max(best, memory);
}

namespace {

/// Share of the matrix rate that fused attention kernels reach, in parts per thousand; what they
/// move comes on top. Measured on h100-80g in profiles of training steps (cuDNN's kernels for bf16,
/// the memory-efficient ones for fp32; forward / backward in us): [1,32,32768,64] causal 9501 /
/// 27218; [1,32,4096,64] causal 184 / 528; [4,14,1024,64] causal 31 / 109; [64,16,197,64] 61 / 230;
/// with dropout [1,12,16384,64] causal 2413 / 3187, [16,16,512,64] 110 / 212, [8,16,1024,64] causal
/// 134 / 240; fp32 with dropout [8,16,1024,64] causal 820 / 1703, [32,16,256,64] 377 / 757.
std::int64_t attention_share(const AttentionWork& work) {
  if (work.element_bytes == 4) {  // of the tf32 rate
    return work.backward ? 70 : 55;
  }
  if (work.dropout) {
    return work.backward ? 400 : 205;
  }
  return work.backward ? 476 : 545;
}

}  // namespace

SimDuration attention_time(const GpuCosts& gpu, const AttentionWork& work) {
  const std::int64_t matrix_rate =
      work.element_bytes == 4 ? gpu.tf32_flops_per_second : gpu.half_flops_per_second;
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
  Wide moved = elements * work.element_bytes;
  if (work.backward) {
    moved = 2 * moved + rows * work.query_length * (2 * work.element_bytes + std::int64_t{3} * 4);
  }
  const std::int64_t kernels = work.backward ? 3 : 1;
  const std::int64_t rate = std::max<std::int64_t>(1, matrix_rate / 1000 * attention_share(work));
  return kernels * gpu.kernel_floor + duration_of(flops, rate) +
         duration_of(moved, gpu.memory_bytes_per_second);
}

SimDuration collective_time(const GpuCosts& gpu, const CollectiveWork& work) {
  check(work.ranks > 0, "a collective has ranks");
  if (work.ranks == 1) {
    return streaming_time(gpu, work.bytes);  // a copy, or nothing
  }
  const bool in_node = work.ranks <= gpu.cards_per_node;
  const std::int64_t link =
      gpu.link_bytes_per_second > 0 ? gpu.link_bytes_per_second : kHostPathBytesPerSecond;
  // Across nodes a ring is as fast as its slowest hop. Every card has its own network port, and a
  // node's cards carry one ring each.
  const std::int64_t rate =
      in_node ? link : std::min(link, gpu.network_bytes_per_second * gpu.cards_per_node);
  const Wide passes = work.kind == Collective::all_reduce ? 2 : 1;
  const Wide moved = work.kind == Collective::broadcast
                         ? Wide{work.bytes.count()}
                         : passes * work.bytes.count() * (work.ranks - 1) / work.ranks;
  // Latency: inside a node every rank is a step; between nodes the library's tree or the pipelined
  // ring pays the network once per doubling of the nodes.
  const std::int64_t inner_steps = std::min(work.ranks, gpu.cards_per_node) - 1;
  std::int64_t doublings = 0;
  for (std::int64_t nodes = ceil_div(work.ranks, gpu.cards_per_node); nodes > 1;
       nodes = ceil_div(nodes, 2)) {
    ++doublings;
  }
  return gpu.collective_floor + inner_steps * gpu.link_latency + doublings * gpu.network_latency +
         duration_of(moved, rate);
}

}  // namespace peakcast
