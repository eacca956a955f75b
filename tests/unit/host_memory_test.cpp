#include "sim/app/host_memory.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace peakcast::app {
namespace {

using namespace literals;

/// A batch of three tensors, as tests/support/measure_loader.py loads it.
std::vector<Bytes> three(Bytes tensor) { return {tensor, tensor, tensor}; }

// What /dev/shm grew by while the loop was slower than its loader: PyTorch 2.11.0, Python 3.11,
// Linux 6.18, 2026-11-29. With two workers and two batches each: 5 batches of 3 x 157 pages, and 14
// pages of semaphores.
TEST(HostMemory, SharedMemoryIsWhatARealLoaderTakes) {
  EXPECT_EQ(loader_shared({.workers = 2, .prefetch = 2}, three(Bytes{640'000})), Bytes{9'703'424});
  EXPECT_EQ(loader_shared({.workers = 2, .prefetch = 2}, three(512_KiB)), Bytes{7'921'664});
  EXPECT_EQ(loader_shared({.workers = 1, .prefetch = 3}, three(512_KiB)), Bytes{6'336'512});
  EXPECT_EQ(loader_shared({.workers = 0}, three(512_KiB)), 0_B);
}

// torch.cuda.host_memory_stats()["allocated_bytes.peak"], less 6 bytes of PyTorch's own: H200,
// PyTorch 2.11.0+cu130, driver 580, 2026-11-29. 640 000 bytes take a MiB.
TEST(HostMemory, PinnedMemoryIsWhatTheCachingHostAllocatorTakes) {
  const auto pinned = [](std::int64_t workers, std::int64_t prefetch) {
    return loader_pinned({.workers = workers, .prefetch = prefetch, .pins = true},
                         three(Bytes{640'000}));
  };
  EXPECT_EQ(pinned(0, 2), 2 * 3_MiB);
  EXPECT_EQ(pinned(1, 3), 4 * 3_MiB);
  EXPECT_EQ(pinned(2, 2), 5 * 3_MiB);
  EXPECT_EQ(pinned(4, 2), 9 * 3_MiB);
  EXPECT_EQ(loader_pinned({.workers = 4}, three(1_MiB)), 0_B);
}

// Two processes of a node: each builds 10 GiB or trains with 1 + 2 + 4 GiB, beside 3 GiB of its
// own.
TEST(HostMemory, ANodeHoldsTheLargerOfBuildingAndTrainingForEachProcess) {
  HostMemory host{.processes = 2,
                  .shared = 1_GiB,
                  .pinned = 2_GiB,
                  .model = 10_GiB,
                  .torch_save = 1_GiB,
                  .safetensors_save = 4_GiB,
                  .process = 2_GiB,
                  .workers = 1_GiB};
  EXPECT_EQ(host.node_memory(), 26_GiB);
  host.model = 5_GiB;
  EXPECT_EQ(host.node_memory(), 20_GiB);
  EXPECT_EQ(host.node_shared(), 2_GiB);
}

TEST(HostMemory, TextHasTheLinesForAContainer) {
  HostMemory host{.loader = {.workers = 4, .prefetch = 2}, .shared = 100_MiB, .process = 1_GiB};
  EXPECT_NE(host_text(host).find("docker run --gpus all --shm-size=100m --memory=2g\n"),
            std::string::npos)
      << host_text(host);
  host.shared = 1_MiB;  // no less than Docker gives anyway
  EXPECT_NE(host_text(host).find("--shm-size=64m"), std::string::npos);
  EXPECT_NE(host_text(host).find("sizeLimit: 64Mi"), std::string::npos);
}

}  // namespace
}  // namespace peakcast::app
