#include <algorithm>

#include "cuda_check/driver_api.hpp"
#include "cuda_check/gpu_toucher.hpp"

namespace peakcast {

namespace {

struct Findings {
  unsigned long long bad_words;
  unsigned long long claimed;  // 1 once a thread owns the fields below
  unsigned long long key;
  unsigned long long offset;
  unsigned long long expected;
  unsigned long long found;
};
// The module's own memory: a cudaMalloc would share a page with a policy's small requests.
__device__ Findings findings;

constexpr int kThreads = 256;
constexpr std::uint64_t kWordsPerThread = 16;
constexpr unsigned int kMostBlocks = 132 * 16;  // enough to fill the largest chip; the rest loops

// Blocks begin at multiples of at least 256 bytes (cudaMalloc's alignment), and a policy's sizes
// are multiples of 512; a tail of less than a word is left alone.
__global__ void fill_words(ulonglong2* pairs, std::uint64_t pair_count, std::uint64_t key,
                           bool odd_word) {
  const std::uint64_t stride = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < pair_count;
       i += stride) {
    pairs[i] = make_ulonglong2(pattern_word(key, i * 16), pattern_word(key, i * 16 + 8));
  }
  if (odd_word && blockIdx.x == 0 && threadIdx.x == 0) {
    reinterpret_cast<unsigned long long*>(pairs)[pair_count * 2] =
        pattern_word(key, pair_count * 16);
  }
}

__device__ void report(std::uint64_t key, std::uint64_t offset, std::uint64_t expected,
                       std::uint64_t found) {
  atomicAdd(&findings.bad_words, 1ULL);
  if (atomicCAS(&findings.claimed, 0ULL, 1ULL) == 0ULL) {
    findings.key = key;
    findings.offset = offset;
    findings.expected = expected;
    findings.found = found;
  }
}

__global__ void verify_words(const ulonglong2* pairs, std::uint64_t pair_count, std::uint64_t key,
                             bool odd_word) {
  const std::uint64_t stride = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < pair_count;
       i += stride) {
    // Past the L1: another stream's write must be seen, not a line that this one has read before.
    const ulonglong2 pair = __ldcg(&pairs[i]);
    const std::uint64_t first = pattern_word(key, i * 16);
    const std::uint64_t second = pattern_word(key, i * 16 + 8);
    if (pair.x != first) {
      report(key, i * 16, first, pair.x);
    }
    if (pair.y != second) {
      report(key, i * 16 + 8, second, pair.y);
    }
  }
  if (odd_word && blockIdx.x == 0 && threadIdx.x == 0) {
    const std::uint64_t expected = pattern_word(key, pair_count * 16);
    const std::uint64_t found = reinterpret_cast<const unsigned long long*>(pairs)[pair_count * 2];
    if (found != expected) {
      report(key, pair_count * 16, expected, found);
    }
  }
}

__global__ void stay_busy(std::uint64_t nanoseconds) {
  std::uint64_t start = 0;
  std::uint64_t now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - start < nanoseconds);
}

struct Shape {
  std::uint64_t pairs{};
  bool odd_word{};
  unsigned int blocks{};
};

Shape shape_of(const TouchedBlock& block) {
  const std::uint64_t words = static_cast<std::uint64_t>(block.size.count()) / 8;
  const std::uint64_t per_block = kThreads * kWordsPerThread;
  const std::uint64_t blocks = (words + per_block - 1) / per_block;
  return Shape{words / 2, words % 2 != 0,
               static_cast<unsigned int>(std::clamp<std::uint64_t>(blocks, 1, kMostBlocks))};
}

}  // namespace

GpuToucher::GpuToucher(CudaStreams& streams, std::chrono::microseconds pause)
    : streams_{&streams}, pause_ns_{static_cast<std::uint64_t>(pause.count()) * 1000} {
  const Findings nothing{};
  cuda_check(cudaMemcpyToSymbol(findings, &nothing, sizeof(Findings)), "cudaMemcpyToSymbol");
  // Load every kernel now: a module loaded later would take device memory in mid-measurement.
  cudaFuncAttributes attributes{};
  cuda_check(cudaFuncGetAttributes(&attributes, fill_words), "cudaFuncGetAttributes");
  cuda_check(cudaFuncGetAttributes(&attributes, verify_words), "cudaFuncGetAttributes");
  cuda_check(cudaFuncGetAttributes(&attributes, stay_busy), "cudaFuncGetAttributes");
  stay_busy<<<1, 1>>>(1000);
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void GpuToucher::fill(const TouchedBlock& block, StreamId stream) {
  const Shape shape = shape_of(block);
  fill_words<<<shape.blocks, kThreads, 0, streams_->handle(stream)>>>(
      static_cast<ulonglong2*>(pointer_of(block.address)), shape.pairs, block.key, shape.odd_word);
  cuda_check(cudaGetLastError(), "launch of fill_words");
  filled_bytes_ += block.size.count();
}

void GpuToucher::verify(const TouchedBlock& block, StreamId stream) {
  const Shape shape = shape_of(block);
  verify_words<<<shape.blocks, kThreads, 0, streams_->handle(stream)>>>(
      static_cast<const ulonglong2*>(pointer_of(block.address)), shape.pairs, block.key,
      shape.odd_word);
  cuda_check(cudaGetLastError(), "launch of verify_words");
  verified_bytes_ += block.size.count();
}

void GpuToucher::verify_late(const TouchedBlock& block, StreamId owner, StreamId user) {
  const EventId filled = streams_->record(owner);
  streams_->stream_wait(user, filled);
  streams_->forget(filled);
  verify_after_pause(block, user);
}

void GpuToucher::verify_after_pause(const TouchedBlock& block, StreamId stream) {
  stay_busy<<<1, 1, 0, streams_->handle(stream)>>>(pause_ns_);
  cuda_check(cudaGetLastError(), "launch of stay_busy");
  verify(block, stream);
}

TouchReport GpuToucher::finish() {
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  Findings found{};
  cuda_check(cudaMemcpyFromSymbol(&found, findings, sizeof(Findings)), "cudaMemcpyFromSymbol");
  TouchReport report{.filled_bytes = filled_bytes_,
                     .verified_bytes = verified_bytes_,
                     .bad_words = static_cast<std::int64_t>(found.bad_words)};
  if (found.claimed != 0) {
    report.first = Corruption{found.key, found.offset, found.expected, found.found};
  }
  return report;
}

}  // namespace peakcast
