// cuDNN's older functions: handles, descriptors, recurrent layers, batch norm, dropout. What they
// say about memory comes from cudnn_sizes.hpp.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "workloads/capture/assume.hpp"
#include "workloads/capture/cudnn.hpp"
#include "workloads/capture/cudnn_sizes.hpp"
#include "workloads/capture/cudnn_types.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture::cudnn {
namespace {

struct Handle {
  StreamHandle stream{};
};

constexpr int kMostDimensions = 8;

/// A tensor's or a filter's.
struct Tensor {
  int type{};
  int format{};  ///< of a filter
  int dimensions{};
  std::array<int, kMostDimensions> sizes{};
  std::array<int, kMostDimensions> strides{};

  [[nodiscard]] bool is_channels_last() const { return dimensions >= 4 && strides[1] == 1; }
  [[nodiscard]] std::int64_t elements() const {
    std::int64_t product = 1;
    for (int i = 0; i < dimensions; ++i) {
      product *= sizes[static_cast<std::size_t>(i)];
    }
    return product;
  }
};

struct Dropout {
  float probability{};
};

struct Recurrent {
  RecurrentShape shape{};
  int type{};
};

struct Sequence {
  int type{};
  std::int64_t steps{};
  std::int64_t batch{};
};

constexpr std::int64_t bytes_of(int type) {
  switch (type) {
    case 1:  // double
    case 9 + 100:
      return 8;
    case 2:  // half
    case 9:  // bfloat16
      return 2;
    case 3:  // int8
    case 8:
    case 11:
    case 12:
    case 13:
      return 1;
    default:
      return 4;
  }
}

std::int64_t multiprocessors() { return machine().settings.gpu.multiprocessors; }

int set_tensor(Tensor* tensor, int type, int count, const int* sizes, const int* strides) {
  if (tensor == nullptr || count < 1 || count > kMostDimensions) {
    return kBadParam;
  }
  tensor->type = type;
  tensor->dimensions = count;
  std::copy_n(sizes, count, tensor->sizes.begin());
  std::copy_n(strides, count, tensor->strides.begin());
  return kSuccess;
}

int get_dimensions(const Tensor* tensor, int wanted, int* count, int* sizes) {
  *count = tensor->dimensions;
  std::copy_n(tensor->sizes.begin(), std::min(wanted, tensor->dimensions), sizes);
  return kSuccess;
}

NormShape norm_shape(int mode, const Tensor& x) {
  const std::int64_t channels = x.sizes[1];
  return {.mode = mode,
          .channels_last = x.is_channels_last(),
          .element_bytes = bytes_of(x.type),
          .channels = channels,
          .rows = channels > 0 ? x.elements() / channels : 0};
}

RecurrentShape with_sequence(const Recurrent& layers, const Sequence& x, int mode) {
  RecurrentShape shape = layers.shape;
  shape.training = mode != 0;
  shape.steps = x.steps;
  shape.batch = x.batch;
  return shape;
}

/// Bytes before one matrix or vector in a recurrent layer's parameters. cuDNN keeps all matrices of
/// all layers before all vectors.
struct Place {
  std::int64_t matrix{};
  std::int64_t vector{};
  std::int64_t rows{};
  std::int64_t columns{};
  bool has_vector{};
};
Place place_of(const RecurrentShape& shape, std::int64_t pseudo_layer, std::int64_t gate) {
  const std::int64_t ways = shape.bidirectional ? 2 : 1;
  const std::int64_t count = gates(shape);
  const std::int64_t hidden = shape.hidden;
  const std::int64_t out = shape.projection > 0 ? shape.projection : hidden;
  const bool projects = out != hidden;
  const std::int64_t vectors = shape.bias == 0 ? 0 : shape.bias == 2 ? 2 : 1;
  const auto matrices = [&](std::int64_t layer) {
    return count * hidden * (layer_input(shape, layer) + out) + (projects ? out * hidden : 0);
  };
  Place place;
  for (std::int64_t i = 0; i < pseudo_layer; ++i) {
    place.matrix += matrices(i / ways);
  }
  const std::int64_t in = layer_input(shape, pseudo_layer / ways);
  const std::int64_t before = std::min(gate, count);
  const std::int64_t recurrent = std::clamp<std::int64_t>(gate - count, 0, count);
  place.matrix += before * hidden * in + recurrent * hidden * out;
  place.rows = gate == 2 * count ? out : hidden;
  place.columns = gate < count ? in : gate == 2 * count ? hidden : out;
  place.vector = (recurrent_weight_bytes(shape) / shape.element_bytes) -
                 shape.layers * ways * vectors * count * hidden +
                 pseudo_layer * vectors * count * hidden;
  const bool of_input = gate < count;
  place.has_vector = gate < 2 * count && (shape.bias == 2 || (shape.bias == 1 && of_input) ||
                                          (shape.bias == 3 && !of_input));
  place.vector += (shape.bias == 3 ? gate - count : gate) * hidden;
  return place;
}

void say_place(Tensor* tensor, int type, std::int64_t rows, std::int64_t columns) {
  if (tensor != nullptr) {
    tensor->type = type;
    tensor->dimensions = 3;
    tensor->sizes = {1, static_cast<int>(rows), static_cast<int>(columns)};
    tensor->strides = {static_cast<int>(rows * columns), static_cast<int>(columns), 1};
  }
}

template <class T>
int make(T** out) {
  *out = new T{};
  return kSuccess;
}
template <class T>
int drop(T* object) {
  delete object;
  return kSuccess;
}

}  // namespace

std::mutex& mutex() {
  static auto* const instance = new std::mutex;
  return *instance;
}

Client& client() {
  static auto* const instance = new Client{device_json(machine().settings.gpu)};
  return *instance;
}

int launch(void* handle, std::string_view name, std::int64_t bytes) {
  const std::lock_guard lock{machine().mutex};
  const StreamHandle stream = handle != nullptr ? static_cast<Handle*>(handle)->stream : nullptr;
  Stream* const found = machine().find(stream);
  if (found == nullptr) {
    return kBadParam;
  }
  machine().launch(*found, stream, name, streaming_time(machine().settings.gpu, Bytes{bytes}), 0);
  return kSuccess;
}

}  // namespace peakcast::capture::cudnn

using namespace peakcast::capture;
using namespace peakcast::capture::cudnn;

PEAKCAST_EXPORT std::size_t cudnnGetVersion() {
  constexpr std::size_t kAssumed = 91900;  // what PyTorch 2.11 was built with
  const std::lock_guard lock{mutex()};
  return static_cast<std::size_t>(client().version().value_or(kAssumed));
}
PEAKCAST_EXPORT int cudnnGetProperty(int part, int* value) {
  const auto version = static_cast<int>(cudnnGetVersion());
  *value = part == 0 ? version / 10000 : part == 1 ? version / 100 % 100 : version % 100;
  return kSuccess;
}
PEAKCAST_EXPORT std::size_t cudnnGetCudartVersion() { return 13000; }
PEAKCAST_EXPORT const char* cudnnGetErrorString(int status) {
  return status == kSuccess   ? "CUDNN_STATUS_SUCCESS"
         : status / 1000 == 3 ? "CUDNN_STATUS_NOT_SUPPORTED"
                              : "CUDNN_STATUS_BAD_PARAM";
}
PEAKCAST_EXPORT void cudnnGetLastErrorString(char* message, std::size_t size) {
  if (size > 0) {
    message[0] = '\0';
  }
}

PEAKCAST_EXPORT int cudnnCreate(Handle** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroy(Handle* handle) { return drop(handle); }
PEAKCAST_EXPORT int cudnnSetStream(Handle* handle, StreamHandle stream) {
  handle->stream = stream;
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetStream(Handle* handle, StreamHandle* stream) {
  *stream = handle->stream;
  return kSuccess;
}

PEAKCAST_EXPORT int cudnnCreateTensorDescriptor(Tensor** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroyTensorDescriptor(Tensor* tensor) { return drop(tensor); }
PEAKCAST_EXPORT int cudnnSetTensorNdDescriptor(Tensor* tensor, int type, int count,
                                               const int* sizes, const int* strides) {
  return set_tensor(tensor, type, count, sizes, strides);
}
PEAKCAST_EXPORT int cudnnGetTensorNdDescriptor(const Tensor* tensor, int wanted, int* type,
                                               int* count, int* sizes, int* strides) {
  *type = tensor->type;
  std::copy_n(tensor->strides.begin(), std::min(wanted, tensor->dimensions), strides);
  return get_dimensions(tensor, wanted, count, sizes);
}
PEAKCAST_EXPORT int cudnnCreateFilterDescriptor(Tensor** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroyFilterDescriptor(Tensor* filter) { return drop(filter); }
PEAKCAST_EXPORT int cudnnSetFilterNdDescriptor(Tensor* filter, int type, int format, int count,
                                               const int* sizes) {
  filter->format = format;
  return set_tensor(filter, type, count, sizes, sizes);
}
PEAKCAST_EXPORT int cudnnGetFilterNdDescriptor(const Tensor* filter, int wanted, int* type,
                                               int* format, int* count, int* sizes) {
  *type = filter->type;
  *format = filter->format;
  return get_dimensions(filter, wanted, count, sizes);
}

PEAKCAST_EXPORT int cudnnCreateDropoutDescriptor(Dropout** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroyDropoutDescriptor(Dropout* dropout) { return drop(dropout); }
PEAKCAST_EXPORT int cudnnDropoutGetStatesSize(Handle* /*handle*/, std::size_t* size) {
  *size = static_cast<std::size_t>(dropout_state_bytes(multiprocessors()));
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnSetDropoutDescriptor(Dropout* dropout, Handle* handle, float probability,
                                              void* states, std::size_t size,
                                              unsigned long long /*seed*/) {
  dropout->probability = probability;
  return states == nullptr
             ? kSuccess
             : cudnn::launch(handle, "cudnn dropout states", static_cast<std::int64_t>(size));
}
PEAKCAST_EXPORT int cudnnRestoreDropoutDescriptor(Dropout* dropout, Handle* /*handle*/,
                                                  float probability, void* /*states*/,
                                                  std::size_t /*size*/,
                                                  unsigned long long /*seed*/) {
  dropout->probability = probability;
  return kSuccess;
}

PEAKCAST_EXPORT int cudnnCreateRNNDescriptor(Recurrent** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroyRNNDescriptor(Recurrent* layers) { return drop(layers); }
PEAKCAST_EXPORT int cudnnSetRNNDescriptor_v8(Recurrent* layers, int algorithm, int cell, int bias,
                                             int direction, int /*input_mode*/, int type,
                                             int /*precision*/, int /*math*/, std::int32_t input,
                                             std::int32_t hidden, std::int32_t projection,
                                             std::int32_t count, const Dropout* dropout,
                                             std::uint32_t /*flags*/) {
  layers->shape = {.algorithm = algorithm,
                   .cell = cell,
                   .bias = bias,
                   .bidirectional = direction != 0,
                   .dropout = dropout != nullptr && dropout->probability > 0,
                   .element_bytes = bytes_of(type),
                   .input = input,
                   .hidden = hidden,
                   .projection = projection,
                   .layers = count};
  layers->type = type;
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnCreateRNNDataDescriptor(Sequence** out) { return make(out); }
PEAKCAST_EXPORT int cudnnDestroyRNNDataDescriptor(Sequence* data) { return drop(data); }
PEAKCAST_EXPORT int cudnnSetRNNDataDescriptor(Sequence* data, int type, int /*layout*/, int steps,
                                              int batch, int /*width*/, const int* /*lengths*/,
                                              void* /*fill*/) {
  *data = {.type = type, .steps = steps, .batch = batch};
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetRNNWeightSpaceSize(Handle* /*handle*/, const Recurrent* layers,
                                               std::size_t* size) {
  *size = static_cast<std::size_t>(recurrent_weight_bytes(layers->shape));
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetRNNTempSpaceSizes(Handle* /*handle*/, const Recurrent* layers, int mode,
                                              const Sequence* x, std::size_t* workspace,
                                              std::size_t* reserve) {
  const RecurrentShape shape = with_sequence(*layers, *x, mode);
  const RecurrentWorkspace needed = recurrent_workspace(shape);
  if (!needed.exact) {
    assume("cuDNN's workspace for a recurrent layer", std::to_string(needed.bytes) + " bytes");
  }
  if (workspace != nullptr) {
    *workspace = static_cast<std::size_t>(needed.bytes);
  }
  if (reserve != nullptr) {
    *reserve = static_cast<std::size_t>(recurrent_reserve_bytes(shape));
  }
  settle_assumptions();
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetRNNWeightParams(Handle* /*handle*/, const Recurrent* layers,
                                            std::int32_t layer, std::size_t /*size*/,
                                            const void* weights, std::int32_t gate, Tensor* matrix,
                                            void** matrix_at, Tensor* vector, void** vector_at) {
  const RecurrentShape& shape = layers->shape;
  const Place place = place_of(shape, layer, gate);
  auto* const start = static_cast<char*>(const_cast<void*>(weights));
  const bool projection = gate == 2 * gates(shape);
  const bool there = !projection || (shape.projection > 0 && shape.projection != shape.hidden);
  say_place(matrix, layers->type, place.rows, place.columns);
  say_place(vector, layers->type, place.rows, 1);
  if (matrix_at != nullptr) {
    *matrix_at = there ? start + place.matrix * shape.element_bytes : nullptr;
  }
  if (vector_at != nullptr) {
    *vector_at = place.has_vector ? start + place.vector * shape.element_bytes : nullptr;
  }
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnRNNForward(Handle* handle, const Recurrent* layers) {
  return cudnn::launch(handle, "cudnn rnn forward", recurrent_weight_bytes(layers->shape));
}
PEAKCAST_EXPORT int cudnnRNNBackwardData_v8(Handle* handle, const Recurrent* layers) {
  return cudnn::launch(handle, "cudnn rnn backward data", recurrent_weight_bytes(layers->shape));
}
PEAKCAST_EXPORT int cudnnRNNBackwardWeights_v8(Handle* handle, const Recurrent* layers) {
  return cudnn::launch(handle, "cudnn rnn backward weights", recurrent_weight_bytes(layers->shape));
}

PEAKCAST_EXPORT int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    Handle* /*handle*/, int mode, int /*ops*/, const Tensor* x, const Tensor* /*z*/,
    const Tensor* /*y*/, const Tensor* /*scale*/, const void* /*activation*/, std::size_t* size) {
  *size = static_cast<std::size_t>(norm_forward_workspace(norm_shape(mode, *x), multiprocessors()));
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(Handle* /*handle*/,
                                                                         int /*mode*/, int /*ops*/,
                                                                         const void* /*activation*/,
                                                                         const Tensor* /*x*/,
                                                                         std::size_t* size) {
  *size = 0;
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    Handle* /*handle*/, int mode, int /*ops*/, const Tensor* x, const Tensor* /*y*/,
    const Tensor* /*dy*/, const Tensor* /*dz*/, const Tensor* /*dx*/, const Tensor* /*scale*/,
    const void* /*activation*/, std::size_t* size) {
  *size =
      static_cast<std::size_t>(norm_backward_workspace(norm_shape(mode, *x), multiprocessors()));
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnBatchNormalizationForwardTrainingEx(Handle* handle, int /*mode*/,
                                                             int /*ops*/, const void* /*alpha*/,
                                                             const void* /*beta*/,
                                                             const Tensor* x) {
  return cudnn::launch(handle, "cudnn batch norm", 3 * x->elements() * bytes_of(x->type));
}
PEAKCAST_EXPORT int cudnnBatchNormalizationBackwardEx(Handle* handle, int /*mode*/, int /*ops*/,
                                                      const void* /*a*/, const void* /*b*/,
                                                      const void* /*c*/, const void* /*d*/,
                                                      const Tensor* x) {
  return cudnn::launch(handle, "cudnn batch norm backward", 5 * x->elements() * bytes_of(x->type));
}
PEAKCAST_EXPORT int cudnnBatchNormalizationForwardInference(Handle* handle, int /*mode*/,
                                                            const void* /*alpha*/,
                                                            const void* /*beta*/, const Tensor* x) {
  return cudnn::launch(handle, "cudnn batch norm inference", 2 * x->elements() * bytes_of(x->type));
}
