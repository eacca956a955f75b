// NVRTC: PyTorch compiles some elementwise kernels when they are first needed. Nothing is compiled;
// a program is its source, and the code one byte.
#include <cstddef>
#include <string>

#include "workloads/capture/stub.hpp"

namespace {

constexpr int kSuccess = 0;

struct Program {
  std::string last_name{};
};

}  // namespace

PEAKCAST_EXPORT int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcCreateProgram(Program** out) {
  *out = new Program;
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcGetLoweredName(Program* program, const char* expression,
                                        const char** name) {
  program->last_name = expression;
  *name = program->last_name.c_str();
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcGetPTXSize(Program* /*program*/, std::size_t* size) {
  *size = 1;
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcGetCUBINSize(Program* /*program*/, std::size_t* size) {
  *size = 1;
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcGetPTX(Program* /*program*/, char* code) {
  *code = '\0';
  return kSuccess;
}
PEAKCAST_EXPORT int nvrtcGetCUBIN(Program* /*program*/, char* code) {
  *code = '\0';
  return kSuccess;
}
