#pragma once

#include <atomic>

/// Declares a function that programs find in the library.
#define PEAKCAST_EXPORT extern "C" __attribute__((visibility("default")))
/// The same, for what stubs.cmake writes: gives way to a definition by hand.
#define PEAKCAST_STUB extern "C" __attribute__((visibility("default"), weak))

namespace peakcast::capture {

/// A function of NVIDIA's that does nothing but say so. One static object a function.
class Stub {
 public:
  explicit constexpr Stub(const char* name) : name_{name} {}
  /// Notes the first call in the log.
  void reached() {
    if (!reached_.exchange(true, std::memory_order_relaxed)) {
      note(name_);
    }
  }

  // What it fills in; null is left alone, as the real functions do or refuse.
  static void fill_int(void* target);
  static void fill_long(void* target);
  static void fill_handle(void* target);

 private:
  static void note(const char* name);
  const char* name_;
  std::atomic<bool> reached_{false};
};

}  // namespace peakcast::capture
