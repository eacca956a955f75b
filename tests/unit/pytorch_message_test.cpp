// The words of torch.cuda.OutOfMemoryError (specification, section 11).

#include <string>

#include <gtest/gtest.h>

#include "tests/support/pytorch_bench.hpp"

namespace peakcast {
namespace {

using namespace literals;
using support::BenchSetup;
using Bench = support::PytorchBench<pytorch::CachingAllocator>;

TEST(OomMessage, TellsTheSegmentSizeThatWasTriedNotTheRequest) {
  // 40 MiB in 8 blocks of 5 MiB; every second one is free.
  Bench bench{BenchSetup{.total = 40_MiB}};
  for (int i = 0; i < 8; ++i) {
    bench.alloc(std::to_string(i), 5_MiB);
  }
  bench.free_all("0", "2", "4", "6");
  EXPECT_EQ(bench.allocator().message(bench.alloc_fails(6_MiB)),
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 40.00 "
            "MiB of which 0 bytes is free. Of the allocated memory 20.00 MiB is allocated by "
            "PyTorch, and 20.00 MiB is reserved by PyTorch but unallocated.");
  EXPECT_EQ(bench.allocator().message(bench.alloc_fails(600_KiB)).substr(0, 48),
            "CUDA out of memory. Tried to allocate 2.00 MiB. ");
}

TEST(OomMessage, TellsTheLimitWhereThereIsOne) {
  Bench bench{BenchSetup{.limit = 1_GiB, .total = 80_GiB}};
  bench.alloc("a", 1000_MiB);
  EXPECT_EQ(bench.allocator().message(bench.alloc_fails(2_GiB)),
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 "
            "GiB of which 79.02 GiB is free. 1024.00 MiB allowed; Of the allocated memory 1000.00 "
            "MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.");
}

TEST(OomMessage, CountsTheFreeBlocksOfPrivatePools) {
  // A pool holds [1 MiB A][1 MiB -]: its free MiB is "allocated in private pools".
  Bench bench{BenchSetup{.total = 2_MiB}};
  auto& allocator = bench.allocator();
  const auto pool = allocator.create_pool({});
  allocator.begin_allocate_to_pool(pool, [](StreamId) { return true; });
  bench.alloc("a", 1_MiB);
  allocator.end_allocate_to_pool(pool);
  EXPECT_EQ(allocator.message(bench.alloc_fails(512_B)),
            "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 2.00 "
            "MiB of which 0 bytes is free. Of the allocated memory 2.00 MiB is allocated by "
            "PyTorch, with 1024.00 KiB allocated in private pools (e.g., CUDA Graphs), and 0 bytes "
            "is reserved by PyTorch but unallocated.");
}

}  // namespace
}  // namespace peakcast
