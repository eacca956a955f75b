#include "workloads/capture/allocator_tap.hpp"

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>

#include "workloads/capture/machine.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

/// What PyTorch's trackers are told: the head of c10's TraceEntry, the same since 2.1.
struct TraceEntry {
  int action;
  std::int8_t device;
  std::uint64_t address;
  void* context[2];  ///< a std::shared_ptr
  void* stream;
  std::uint64_t size;
};
using Tracker = std::function<void(const TraceEntry&)>;

/// Place of CUDAAllocator::attachAllocatorTraceTracker among the virtual functions of the release,
/// counted in its own headers (c10/core/Allocator.h, CachingDeviceAllocator.h where it is there,
/// c10/cuda/CUDACachingAllocator.h), destructors being two.
struct Slot {
  std::string_view release;
  std::size_t index;
};
constexpr std::array<Slot, 8> kSlots{{{"2.5", 30},
                                      {"2.6", 30},
                                      {"2.7", 34},
                                      {"2.8", 38},
                                      {"2.9", 42},
                                      {"2.10", 44},
                                      {"2.11", 44},
                                      {"2.12", 46}}};

/// Their order in TraceEntry::Action; -1: nothing that a trace knows.
int action_of(int torch_action) {
  constexpr int kSnapshot = 7;
  constexpr int kOom = 8;
  if (torch_action == kSnapshot) {
    return static_cast<int>(Action::snapshot);
  }
  if (torch_action == kOom) {
    return static_cast<int>(Action::oom);
  }
  return torch_action >= 0 && torch_action < kSnapshot ? torch_action : -1;
}

void on_entry(const TraceEntry& entry) {
  const int action = action_of(entry.action);
  if (action < 0) {
    return;
  }
  const std::lock_guard lock{machine().mutex};
  Machine& all = machine();
  if (entry.device < 0 || static_cast<std::size_t>(entry.device) >= all.cards.size()) {
    return;
  }
  Card& card = *all.cards[static_cast<std::size_t>(entry.device)];
  if (action == static_cast<int>(Action::alloc) ||
      action == static_cast<int>(Action::free_requested)) {
    all.allocator_call(card);
  }
  constexpr std::int64_t kNanosecondsAMicrosecond = 1000;
  if (action == static_cast<int>(Action::alloc)) {
    values_forgotten(reinterpret_cast<void*>(entry.address), static_cast<std::size_t>(entry.size));
  }
  all.log.write({.address = entry.address,
                 .value = static_cast<std::int64_t>(entry.size),
                 .stream = reinterpret_cast<std::uint64_t>(entry.stream),
                 .id = static_cast<std::uint32_t>((card.clock.host_now() - SimTime{}).count() /
                                                  kNanosecondsAMicrosecond),
                 .kind = RecordKind::allocator_event,
                 .flags = static_cast<std::uint8_t>(action),
                 .device = static_cast<std::uint8_t>(entry.device)});
}

/// "2.11.0+cu130" of .../torch/lib/libc10_cuda.so's neighbour .../torch/version.py; "": not found.
std::string version_beside(const std::string& library) {
  const std::size_t lib = library.rfind("/lib/");
  std::ifstream file{library.substr(0, lib == std::string::npos ? 0 : lib) + "/version.py"};
  const std::string text{std::istreambuf_iterator<char>{file}, {}};
  constexpr std::string_view kName = "__version__ = '";
  const std::size_t begin = text.find(kName);
  if (begin == std::string::npos) {
    return "";
  }
  const std::size_t value = begin + kName.size();
  return text.substr(value, text.find('\'', value) - value);
}

const Slot* slot_of(std::string_view version) {
  const std::size_t second_dot = version.find('.', version.find('.') + 1);
  for (const Slot& slot : kSlots) {
    if (slot.release == version.substr(0, second_dot)) {
      return &slot;
    }
  }
  return nullptr;
}

void attach() {
  // std::atomic<CUDAAllocator*>; the library is loaded, for it calls. RTLD_DEFAULT does not see it:
  // Python loads extensions locally.
  Dl_info self{};
  void* library = nullptr;
  std::string path;
  if (std::ifstream maps{"/proc/self/maps"}; maps) {
    std::string line;
    while (std::getline(maps, line)) {
      const std::size_t begin = line.find('/');
      if (begin != std::string::npos && line.ends_with("/libc10_cuda.so")) {
        path = line.substr(begin);
        break;
      }
    }
  }
  static_cast<void>(self);
  library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  void** const place =
      library != nullptr
          ? static_cast<void**>(dlsym(library, "_ZN3c104cuda20CUDACachingAllocator9allocatorE"))
          : nullptr;
  const std::string version = version_beside(path);
  const Slot* const slot = slot_of(version);
  if (place == nullptr || *place == nullptr || slot == nullptr) {
    std::fprintf(stderr, "peakcast capture: PyTorch '%s' is none of 2.5 to 2.12: no trace\n",
                 version.c_str());
    return;
  }
  {
    const std::lock_guard lock{machine().mutex};
    LogWriter& log = machine().log;
    log.write({.id = log.string(version), .kind = RecordKind::framework});
  }
  using Attach = void (*)(void*, Tracker);
  void** const functions = *static_cast<void***>(*place);
  reinterpret_cast<Attach>(functions[slot->index])(*place, Tracker{on_entry});
}

}  // namespace

void tap_allocator() {
  static std::once_flag once;
  std::call_once(once, attach);
}

}  // namespace peakcast::capture
