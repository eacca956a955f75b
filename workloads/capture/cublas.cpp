// cuBLAS and cuBLASLt: products of known sizes take their time on the card. What is not here is a
// stub (stubs/cublas.txt).
#include <cstdint>
#include <cstring>
#include <map>
#include <string_view>

#include "sim/engine/cost_model.hpp"
#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

// cudaDataType_t.
constexpr int kFloat = 0;
constexpr int kDouble = 1;
constexpr int kHalf = 2;
constexpr int kBFloat = 14;
// cublasMath_t.
constexpr int kTf32Math = 3;

struct Handle {
  StreamHandle stream{};
  int math{};
  int pointer_mode{};
};

struct Product {
  std::int64_t m{};
  std::int64_t n{};
  std::int64_t k{};
  std::int64_t batch{1};
  int type{kFloat};
  bool tf32{};
};

SimDuration time_of(const GpuDescription& gpu, const Product& product) {
  const bool half = product.type == kHalf || product.type == kBFloat;
  return matmul_time(gpu, {.m = product.m,
                           .n = product.n,
                           .k = product.k,
                           .batch = product.batch,
                           .unit = product.type == kBFloat ? MathUnit::bf16
                                   : product.type == kHalf ? MathUnit::fp16
                                   : product.tf32          ? MathUnit::tf32
                                                           : MathUnit::single,
                           .element_bytes = half                      ? 2
                                            : product.type == kDouble ? 8
                                                                      : 4});
}

int run(StreamHandle handle, std::string_view name, const Product& product) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return kInvalidHandle;
  }
  if (product.m > 0 && product.n > 0 && product.k > 0 && product.batch > 0) {
    machine().launch(*stream, handle, name, time_of(machine().settings.gpu, product),
                     static_cast<std::uint64_t>(product.m * product.n));
  }
  return kSuccess;
}

int run(const Handle* handle, std::string_view name, Product product) {
  product.tf32 = handle->math == kTf32Math;
  return run(handle->stream, name, product);
}

/// What a layout or a description of cuBLASLt was given: attribute -> its first eight bytes.
struct Attributes {
  std::map<int, std::int64_t> values{};
  int type{kFloat};
  int compute{};
  std::uint64_t rows{};
  std::uint64_t columns{};
  [[nodiscard]] std::int64_t value(int attribute, std::int64_t otherwise) const {
    const auto found = values.find(attribute);
    return found != values.end() ? found->second : otherwise;
  }
};

int set_attribute(Attributes* target, int attribute, const void* from, std::size_t size) {
  std::int64_t value = 0;
  std::memcpy(&value, from, size < sizeof value ? size : sizeof value);
  target->values[attribute] = value;
  return kSuccess;
}

}  // namespace
}  // namespace peakcast::capture

using namespace peakcast::capture;

PEAKCAST_EXPORT int cublasCreate_v2(Handle** handle) {
  *handle = new Handle;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasDestroy_v2(Handle* handle) {
  delete handle;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasSetStream_v2(Handle* handle, StreamHandle stream) {
  handle->stream = stream;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasGetStream_v2(const Handle* handle, StreamHandle* stream) {
  *stream = handle->stream;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasSetWorkspace_v2(Handle* /*handle*/, void* /*space*/,
                                          std::size_t /*size*/) {
  return kSuccess;
}
PEAKCAST_EXPORT int cublasSetMathMode(Handle* handle, int mode) {
  handle->math = mode;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasGetMathMode(const Handle* handle, int* mode) {
  *mode = handle->math;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasSetPointerMode_v2(Handle* handle, int mode) {
  handle->pointer_mode = mode;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasGetPointerMode_v2(const Handle* handle, int* mode) {
  *mode = handle->pointer_mode;
  return kSuccess;
}

#define PEAKCAST_GEMM(letter, type_)                                                           \
  PEAKCAST_EXPORT int cublas##letter##gemm_v2(const Handle* handle, int, int, int m, int n,    \
                                              int k) {                                         \
    return run(handle, "gemm", {.m = m, .n = n, .k = k, .type = type_});                       \
  }                                                                                            \
  PEAKCAST_EXPORT int cublas##letter##gemmStridedBatched(                                      \
      const Handle* handle, int, int, int m, int n, int k, const void*, const void*, int,      \
      long long, const void*, int, long long, const void*, void*, int, long long, int batch) { \
    return run(handle, "gemm", {.m = m, .n = n, .k = k, .batch = batch, .type = type_});       \
  }                                                                                            \
  PEAKCAST_EXPORT int cublas##letter##gemv_v2(const Handle* handle, int, int m, int n) {       \
    return run(handle, "gemv", {.m = m, .n = 1, .k = n, .type = type_});                       \
  }
PEAKCAST_GEMM(S, kFloat)
PEAKCAST_GEMM(D, kDouble)
PEAKCAST_GEMM(C, kDouble)
PEAKCAST_GEMM(Z, kDouble)
#undef PEAKCAST_GEMM

PEAKCAST_EXPORT int cublasGemmEx(const Handle* handle, int, int, int m, int n, int k,
                                 const void* /*alpha*/, const void* /*a*/, int type) {
  return run(handle, "gemm", {.m = m, .n = n, .k = k, .type = type});
}
PEAKCAST_EXPORT int cublasSgemmEx(const Handle* handle, int, int, int m, int n, int k,
                                  const void* /*alpha*/, const void* /*a*/, int type) {
  return run(handle, "gemm", {.m = m, .n = n, .k = k, .type = type});
}
PEAKCAST_EXPORT int cublasGemmStridedBatchedEx(const Handle* handle, int, int, int m, int n, int k,
                                               const void* /*alpha*/, const void* /*a*/, int type,
                                               int, long long, const void*, int, int, long long,
                                               const void*, void*, int, int, long long, int batch) {
  return run(handle, "gemm", {.m = m, .n = n, .k = k, .batch = batch, .type = type});
}

PEAKCAST_EXPORT int cublasLtCreate(void** handle) {
  *handle = new Handle;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmulDescCreate(Attributes** out, int compute, int type) {
  *out = new Attributes{.type = type, .compute = compute};
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmulDescDestroy(Attributes* target) {
  delete target;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmulDescSetAttribute(Attributes* target, int attribute,
                                                   const void* from, std::size_t size) {
  return set_attribute(target, attribute, from, size);
}
PEAKCAST_EXPORT int cublasLtMatmulPreferenceCreate(Attributes** out) {
  *out = new Attributes;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmulPreferenceDestroy(Attributes* target) {
  delete target;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmulPreferenceSetAttribute(Attributes* target, int attribute,
                                                         const void* from, std::size_t size) {
  return set_attribute(target, attribute, from, size);
}
PEAKCAST_EXPORT int cublasLtMatrixLayoutCreate(Attributes** out, int type, std::uint64_t rows,
                                               std::uint64_t columns, std::int64_t /*stride*/) {
  *out = new Attributes{.type = type, .rows = rows, .columns = columns};
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatrixLayoutDestroy(Attributes* target) {
  delete target;
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatrixLayoutSetAttribute(Attributes* target, int attribute,
                                                     const void* from, std::size_t size) {
  return set_attribute(target, attribute, from, size);
}
/// One algorithm, without a workspace.
PEAKCAST_EXPORT int cublasLtMatmulAlgoGetHeuristic(void* /*handle*/, Attributes* /*operation*/,
                                                   Attributes* /*a*/, Attributes* /*b*/,
                                                   Attributes* /*c*/, Attributes* /*d*/,
                                                   Attributes* /*preference*/, int requested,
                                                   void* results, int* found) {
  constexpr std::size_t kResultBytes = 96;  // cublasLtMatmulHeuristicResult_t
  *found = requested > 0 ? 1 : 0;
  if (requested > 0) {
    std::memset(results, 0, kResultBytes);
  }
  return kSuccess;
}
PEAKCAST_EXPORT int cublasLtMatmul(void* /*handle*/, const Attributes* operation,
                                   const void* /*alpha*/, const void* /*a*/,
                                   const Attributes* a_layout, const void* /*b*/,
                                   const Attributes* /*b_layout*/, const void* /*beta*/,
                                   const void* /*c*/, const Attributes* /*c_layout*/, void* /*d*/,
                                   const Attributes* d_layout, const void* /*algorithm*/,
                                   void* /*space*/, std::size_t /*size*/, StreamHandle stream) {
  constexpr int kTransposeA = 3;    // CUBLASLT_MATMUL_DESC_TRANSA
  constexpr int kBatchCount = 5;    // CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT
  constexpr int kComputeTf32 = 77;  // CUBLAS_COMPUTE_32F_FAST_TF32
  const bool transposed = operation->value(kTransposeA, 0) != 0;
  return run(stream, "gemm",
             {.m = static_cast<std::int64_t>(d_layout->rows),
              .n = static_cast<std::int64_t>(d_layout->columns),
              .k = static_cast<std::int64_t>(transposed ? a_layout->rows : a_layout->columns),
              .batch = d_layout->value(kBatchCount, 1) & 0x7fffffff,
              .type = a_layout->type,
              .tf32 = operation->compute == kComputeTf32});
}
