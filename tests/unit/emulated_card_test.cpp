// The emulated card as a program finds it: a library whose functions are looked up by name.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace {

void* library() {
  static void* const handle = [] {
    setenv("PEAKCAST_CAPTURE_CAPACITY", "2147483648", 1);
    setenv("PEAKCAST_CAPTURE_GPU", "h100-80g", 1);
    return dlopen(PEAKCAST_CAPTURE_LIBRARY, RTLD_NOW);
  }();
  return handle;
}

template <class... Arguments>
int call(const char* name, Arguments... arguments) {
  void* const function = dlsym(library(), name);
  EXPECT_NE(function, nullptr) << name;
  return function != nullptr ? reinterpret_cast<int (*)(Arguments...)>(function)(arguments...) : -1;
}

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t free_memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_EQ(call("cudaMemGetInfo", &free, &total), 0);
  EXPECT_EQ(total, 2048 * kMiB);
  return free;
}

TEST(EmulatedCard, GivesWholePagesUntilItIsFull) {
  ASSERT_NE(library(), nullptr) << dlerror();
  const std::size_t before = free_memory();
  void* one = nullptr;
  ASSERT_EQ(call("cudaMalloc", &one, 3 * kMiB), 0);
  EXPECT_EQ(before - free_memory(), 4 * kMiB);  // pages of 2 MiB
  void* rest = nullptr;
  EXPECT_EQ(call("cudaMalloc", &rest, 4096 * kMiB), 2);  // cudaErrorMemoryAllocation
  EXPECT_EQ(rest, nullptr);
  EXPECT_EQ(call("cudaGetLastError"), 2);
  EXPECT_EQ(call("cudaGetLastError"), 0);
  EXPECT_EQ(call("cudaFree", one), 0);
  EXPECT_EQ(free_memory(), before);
}

TEST(EmulatedCard, MayBeReadAndWrittenByTheHost) {
  void* memory = nullptr;
  ASSERT_EQ(call("cudaMalloc", &memory, 64 * kMiB), 0);
  auto* const bytes = static_cast<unsigned char*>(memory);
  EXPECT_EQ(bytes[63 * kMiB], 0);
  bytes[63 * kMiB] = 7;
  EXPECT_EQ(bytes[63 * kMiB], 7);
  EXPECT_EQ(call("cudaFree", memory), 0);
}

TEST(EmulatedCard, RefusesStrangePointersAndStreams) {
  int local = 0;
  EXPECT_EQ(call("cudaFree", static_cast<void*>(&local)), 1);  // cudaErrorInvalidValue
  EXPECT_EQ(call("cudaStreamSynchronize", reinterpret_cast<void*>(std::uintptr_t{0x999})), 400);
  static_cast<void>(call("cudaGetLastError"));
}

TEST(EmulatedCard, KeepsTimeByWhatItsStreamsDo) {
  void* begin = nullptr;
  void* end = nullptr;
  void* memory = nullptr;
  ASSERT_EQ(call("cudaMalloc", &memory, 256 * kMiB), 0);
  ASSERT_EQ(call("cudaEventCreate", &begin), 0);
  ASSERT_EQ(call("cudaEventCreate", &end), 0);
  void* const stream = nullptr;
  ASSERT_EQ(call("cudaEventRecord", begin, stream), 0);
  ASSERT_EQ(call("cudaMemsetAsync", memory, 0, 256 * kMiB, stream), 0);
  ASSERT_EQ(call("cudaEventRecord", end, stream), 0);
  EXPECT_EQ(call("cudaEventQuery", end), 600);  // cudaErrorNotReady: the host is ahead
  EXPECT_EQ(call("cudaEventSynchronize", end), 0);
  float milliseconds = 0;
  EXPECT_EQ(call("cudaEventElapsedTime", &milliseconds, begin, end), 0);
  EXPECT_GT(milliseconds, 0.05F);  // 256 MiB at some TB/s
  EXPECT_LT(milliseconds, 0.5F);
  EXPECT_EQ(call("cudaFree", memory), 0);
}

TEST(EmulatedCard, IsFoundByTheDriversLookUp) {
  void* function = nullptr;
  int status = 9;
  EXPECT_EQ(call("cuGetProcAddress_v2", "cuMemCreate", &function, 13000, std::uint64_t{0}, &status),
            0);
  EXPECT_EQ(function, dlsym(library(), "cuMemCreate"));
  EXPECT_EQ(status, 0);
  EXPECT_EQ(
      call("cuGetProcAddress_v2", "cuNoSuchThing", &function, 13000, std::uint64_t{0}, &status),
      500);
}

TEST(EmulatedCard, FillsWhatAStubShouldFill) {
  void* handle = nullptr;
  int size = -1;
  EXPECT_EQ(call("cusolverDnCreate", &handle), 0);
  EXPECT_NE(handle, nullptr);
  EXPECT_EQ(
      call("cusolverDnSgetrf_bufferSize", handle, 4, 4, static_cast<void*>(nullptr), 4, &size), 0);
  EXPECT_EQ(size, 0);  // and not what was there
}

}  // namespace
