#include "workloads/capture/stub.hpp"

#include <cstdint>
#include <cstring>

#include "workloads/capture/machine.hpp"

namespace peakcast::capture {

void Stub::note(const char* name) {
  const std::lock_guard lock{machine().mutex};
  LogWriter& log = machine().log;
  log.write({.id = log.string(name), .kind = RecordKind::stub});
}

void Stub::fill_int(void* target) {
  if (target != nullptr) {
    std::memset(target, 0, sizeof(std::int32_t));
  }
}

void Stub::fill_long(void* target) {
  if (target != nullptr) {
    std::memset(target, 0, sizeof(std::int64_t));
  }
}

void Stub::fill_handle(void* target) {
  static std::atomic<std::uintptr_t> next{0x100};
  if (target != nullptr) {
    const std::uintptr_t handle = next.fetch_add(0x10);
    std::memcpy(target, &handle, sizeof handle);
  }
}

}  // namespace peakcast::capture
