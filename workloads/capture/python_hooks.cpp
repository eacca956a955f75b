#include "workloads/capture/python_hooks.hpp"

#include <atomic>
#include <cstdint>
#include <dlfcn.h>
#include <span>
#include <string>
#include <string_view>

#include "sim/core/embedded.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast {
std::span<const EmbeddedFile> embedded_capture_hooks();
}

namespace peakcast::capture {
namespace {

/// Python's C interface as far as it is needed, found in the process: the library is linked with no
/// Python.
struct Python {
  int (*is_initialized)() = find<int (*)()>("Py_IsInitialized");
  int (*ensure)() = find<int (*)()>("PyGILState_Ensure");
  void (*release)(int) = find<void (*)(int)>("PyGILState_Release");
  int (*run)(const char*) = find<int (*)(const char*)>("PyRun_SimpleString");
  template <class F>
  static F find(const char* name) {
    return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }
  [[nodiscard]] bool is_there() const {
    return is_initialized != nullptr && ensure != nullptr && release != nullptr && run != nullptr &&
           is_initialized() != 0;
  }
};

std::atomic<bool> hooked{false};
constexpr std::string_view kRanks = "ranks";

/// This library's own path, which the hooks open with ctypes.
std::string own_path() {
  Dl_info info{};
  return dladdr(reinterpret_cast<const void*>(&install_python_hooks), &info) != 0 ? info.dli_fname
                                                                                  : "";
}

}  // namespace

void install_python_hooks() {
  if (machine().settings.directory.empty() || hooked) {
    return;
  }
  const Python python;
  if (!python.is_there()) {
    return;
  }
  const auto& limit = machine().settings.limit;
  std::string code;
  for (const EmbeddedFile& file : embedded_capture_hooks()) {
    code += file.name == kRanks ? "" : file.text;
  }
  // In a namespace of its own; PyTorch may be half imported (a program's import asks for cards):
  // then the next call tries again.
  code =
      "def _peakcast_run():\n"
      "    import sys, ctypes\n"
      "    torch = sys.modules.get('torch')\n"
      "    if torch is None or not hasattr(torch, 'optim') or not hasattr(torch, 'cuda'):\n"
      "        return\n"
      "    native = ctypes.CDLL('" +
      own_path() +
      "')\n"
      "    native.peakcast_capture_hooked()\n"
      "    space = {}\n"
      "    exec(compile(" +
      std::string{"r'''"} + code +
      "''', 'peakcast', 'exec'), space)\n"
      "    space['_peakcast_install'](native, " +
      std::to_string(limit ? limit->count() : 0) +
      ")\n"
      "try:\n    _peakcast_run()\nfinally:\n    del _peakcast_run\n";
  const int state = python.ensure();
  python.run(code.c_str());
  python.release(state);
}

void install_rank_hooks() {
  static std::atomic<bool> done{false};
  if (!machine().settings.partners_in_name || done) {
    return;
  }
  const Python python;
  if (!python.is_there()) {
    return;
  }
  done = true;
  for (const EmbeddedFile& file : embedded_capture_hooks()) {
    if (file.name == kRanks) {
      const int state = python.ensure();
      python.run(std::string{file.text}.c_str());
      python.release(state);
    }
  }
}

}  // namespace peakcast::capture

using namespace peakcast::capture;

// What hooks.py calls.
PEAKCAST_EXPORT void peakcast_capture_hooked() { hooked = true; }
PEAKCAST_EXPORT void peakcast_capture_mark(int kind, const char* text) {
  const std::lock_guard lock{machine().mutex};
  LogWriter& log = machine().log;
  log.write({.id = log.string(text),
             .kind = RecordKind::mark,
             .flags = static_cast<std::uint8_t>(kind),
             .device = static_cast<std::uint8_t>(current_card())});
}
/// What the buffers at `count` addresses hold: a Category.
PEAKCAST_EXPORT void peakcast_capture_category(const std::uint64_t* addresses, std::uint64_t count,
                                               int category) {
  const std::lock_guard lock{machine().mutex};
  for (std::uint64_t i = 0; i < count; ++i) {
    const int card = card_of(reinterpret_cast<const void*>(addresses[i]));
    if (card >= 0) {
      machine().log.write({.address = addresses[i],
                           .kind = RecordKind::category,
                           .flags = static_cast<std::uint8_t>(category),
                           .device = static_cast<std::uint8_t>(card)});
    }
  }
}
PEAKCAST_EXPORT void peakcast_capture_out_of_memory(const char* where) {
  const std::lock_guard lock{machine().mutex};
  LogWriter& log = machine().log;
  log.write({.id = log.string(where), .kind = RecordKind::out_of_memory});
}
