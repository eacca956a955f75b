// Functions that answer with a text or a version: what stubs cannot.
#include <cstddef>
#include <cstdio>

#include "workloads/capture/stub.hpp"

namespace {
const char* text_of(int error) { return error == 0 ? "success" : "error of the emulated card"; }
}  // namespace

PEAKCAST_EXPORT const char* cublasGetStatusString(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* cublasGetStatusName(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* cublasLtGetStatusString(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* cublasLtGetStatusName(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* cusparseGetErrorString(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* cusparseGetErrorName(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* nvrtcGetErrorString(int error) { return text_of(error); }
PEAKCAST_EXPORT const char* nvmlErrorString(int error) { return text_of(error); }

PEAKCAST_STUB std::size_t cublasLtGetVersion() { return 130100; }
PEAKCAST_EXPORT std::size_t cublasLtGetCudartVersion() { return 13000; }

// Given way to by what stands in for cuDNN and NCCL.
PEAKCAST_STUB const char* cudnnGetErrorString(int error) { return text_of(error); }
PEAKCAST_STUB void cudnnGetLastErrorString(char* text, std::size_t size) {
  if (size > 0) {
    std::snprintf(text, size, "%s", "");
  }
}
PEAKCAST_STUB std::size_t cudnnGetVersion() { return 91900; }
PEAKCAST_STUB std::size_t cudnnGetCudartVersion() { return 13000; }
PEAKCAST_STUB const char* ncclGetErrorString(int error) { return text_of(error); }
PEAKCAST_STUB const char* ncclGetLastError(void* /*communicator*/) { return ""; }
