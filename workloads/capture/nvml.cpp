// NVML, as far as PyTorch's message about an out-of-memory goes.
#include <cstdio>
#include <cstring>
#include <unistd.h>

#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

using namespace peakcast::capture;

namespace {
struct ProcessInfo {
  unsigned process;
  unsigned long long used;
};
/// A handle is the card's ordinal + 1.
void* handle_of(int card) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(card) + 1); }
}  // namespace

PEAKCAST_EXPORT int nvmlInit_v2() { return kSuccess; }
PEAKCAST_EXPORT int nvmlInit() { return kSuccess; }
PEAKCAST_EXPORT int nvmlShutdown() { return kSuccess; }
PEAKCAST_EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(machine().settings.cards);
  return kSuccess;
}
PEAKCAST_EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned card, void** handle) {
  *handle = handle_of(static_cast<int>(card));
  return kSuccess;
}
PEAKCAST_EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char* text, void** handle) {
  unsigned domain = 0;
  unsigned bus = 1;
  std::sscanf(text, "%x:%x", &domain, &bus);
  *handle = handle_of(static_cast<int>(bus) - 1);
  return kSuccess;
}
PEAKCAST_EXPORT int nvmlDeviceGetComputeRunningProcesses(void* handle, unsigned* count,
                                                         ProcessInfo* infos) {
  const std::lock_guard lock{machine().mutex};
  const auto card = reinterpret_cast<std::uintptr_t>(handle) - 1;
  if (*count == 0 || card >= machine().cards.size()) {
    return kSuccess;
  }
  *count = 1;
  const auto used = machine().settings.gpu.spec.total - machine().cards[card]->memory.free_memory();
  infos[0] = {static_cast<unsigned>(getpid()), static_cast<unsigned long long>(used.count())};
  return kSuccess;
}
