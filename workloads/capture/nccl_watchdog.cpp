// PyTorch's NCCL watchdog looks ten times a second for collectives that have ended, and lets go of
// the tensors that they hold. On an emulated card a second's work passes in a few ms, so that it
// would come too late: the first buckets of DDP stayed for iterations that saw them gone on real
// cards. Here its wait is a hundredth as long.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

constexpr std::int64_t kMillisecond = 1'000'000;
/// kWatchdogThreadSleepMillis of ProcessGroupNCCL.hpp, all releases; what is shorter is another
/// wait.
constexpr std::int64_t kLongest = 101 * kMillisecond;
constexpr std::int64_t kShortest = 80 * kMillisecond;
constexpr std::int64_t kInstead = kMillisecond;

struct Code {
  std::uintptr_t begin{};
  std::uintptr_t end{};
};

int find_torch(dl_phdr_info* info, std::size_t /*size*/, void* result) {
  if (info->dlpi_name == nullptr || std::strstr(info->dlpi_name, "/libtorch_cuda.so") == nullptr) {
    return 0;
  }
  auto& code = *static_cast<Code*>(result);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0) {
      code = {.begin = info->dlpi_addr + segment.p_vaddr,
              .end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz};
    }
  }
  return 1;
}

bool is_torch(const void* caller) {
  static std::atomic<std::uintptr_t> begin{0};
  static std::atomic<std::uintptr_t> end{0};
  if (end.load(std::memory_order_acquire) == 0) {
    Code code;
    if (dl_iterate_phdr(find_torch, &code) == 0) {
      return false;
    }
    begin = code.begin;
    end.store(code.end, std::memory_order_release);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(caller);
  return address >= begin.load() && address < end.load();
}

/// How often each watchdog has looked; a process has one for each group of ranks.
constexpr std::size_t kMostWatchdogs = 64;
std::array<std::atomic<std::uint64_t>, kMostWatchdogs> looks{};
std::atomic<std::size_t> watchdogs{0};

void note_look() {
  thread_local const std::size_t number = watchdogs++;
  if (number < kMostWatchdogs) {
    ++looks[number];
  }
}

}  // namespace
}  // namespace peakcast::capture

/// Waits until every watchdog has looked twice, as one did many times during a real iteration.
PEAKCAST_EXPORT void peakcast_capture_let_watchdogs_look() {
  using namespace peakcast::capture;
  constexpr int kMostWaits = 200;
  const std::size_t count = std::min(watchdogs.load(), kMostWatchdogs);
  std::array<std::uint64_t, kMostWatchdogs> before{};
  for (std::size_t i = 0; i < count; ++i) {
    before[i] = looks[i];
  }
  const timespec pause{.tv_sec = 0, .tv_nsec = kInstead / 2};
  for (int waits = 0; waits < kMostWaits; ++waits) {
    bool all = true;
    for (std::size_t i = 0; i < count; ++i) {
      all = all && looks[i] >= before[i] + 2;
    }
    if (all) {
      return;
    }
    nanosleep(&pause, nullptr);
  }
}

PEAKCAST_EXPORT int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                           const timespec* until) {
  using namespace peakcast::capture;
  using Wait = int (*)(pthread_cond_t*, pthread_mutex_t*, const timespec*);
  static const auto wait = reinterpret_cast<Wait>(dlsym(RTLD_NEXT, "pthread_cond_timedwait"));
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const std::int64_t left =
      (until->tv_sec - now.tv_sec) * (1000 * kMillisecond) + (until->tv_nsec - now.tv_nsec);
  if (left < kShortest || left > kLongest || !is_torch(__builtin_return_address(0))) {
    return wait(condition, mutex, until);
  }
  note_look();
  now.tv_nsec += kInstead;
  if (now.tv_nsec >= 1000 * kMillisecond) {
    now.tv_nsec -= 1000 * kMillisecond;
    ++now.tv_sec;
  }
  return wait(condition, mutex, &now);
}
