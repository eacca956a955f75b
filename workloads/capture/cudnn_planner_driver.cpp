// The driver that cuDNN finds in the planner's process: it has no card, but takes the kernels that
// cuDNN compiles for a plan, so that the plan is made. All that is not here succeeds and does
// nothing (generated from stubs/cuda.txt); nothing is ever launched.
#include <cstdint>

namespace {

constexpr int kSuccess = 0;
constexpr int kNoDevice = 100;

int make(void** out) {
  static std::uintptr_t next = 0x100;
  *out = reinterpret_cast<void*>(next += 0x10);
  return kSuccess;
}

int say(int* out, int value) {
  *out = value;
  return kSuccess;
}

}  // namespace

extern "C" {
int cuInit(unsigned /*flags*/) { return kNoDevice; }
int cuDeviceGetCount(int* count) {
  *count = 0;
  return kNoDevice;
}
int cuGetExportTable(const void** table, const void* /*which*/) {
  *table = nullptr;
  return kNoDevice;
}
int cuGetProcAddress(const char* /*name*/, void** function, int /*version*/,
                     std::uint64_t /*flags*/) {
  *function = nullptr;
  return kNoDevice;
}
int cuGetProcAddress_v2(const char* /*name*/, void** function, int /*version*/,
                        std::uint64_t /*flags*/, int* /*status*/) {
  *function = nullptr;
  return kNoDevice;
}
int cuLibraryLoadData(void** out) { return make(out); }
int cuLibraryGetKernel(void** out) { return make(out); }
int cuLibraryGetModule(void** out) { return make(out); }
int cuKernelGetFunction(void** out) { return make(out); }
int cuModuleLoadData(void** out) { return make(out); }
int cuModuleLoadDataEx(void** out) { return make(out); }
int cuModuleGetFunction(void** out) { return make(out); }
int cuFuncGetAttribute(int* out) { return say(out, 0); }
int cuKernelGetAttribute(int* out) { return say(out, 0); }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* out) { return say(out, 1); }
int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* out) { return say(out, 1); }
int cuOccupancyMaxActiveClusters(int* out) { return say(out, 1); }
}
