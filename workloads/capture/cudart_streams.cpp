// Streams, events and CUDA graphs.
#include <cstdint>
#include <memory>

#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/cudart.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

using GraphHandle = std::shared_ptr<Graph>*;

int make_stream(StreamHandle* out, int priority) {
  const std::lock_guard lock{machine().mutex};
  *out = machine().make_stream(priority);
  return set_error(kSuccess);
}

int make_event(Event** out, unsigned flags) {
  constexpr unsigned kDisableTiming = 2;
  const std::lock_guard lock{machine().mutex};
  *out = new Event{.number = machine().events++,
                   .card = current_card(),
                   .timing = (flags & kDisableTiming) == 0};
  return set_error(kSuccess);
}

int record_event(Event* event, StreamHandle handle, const void* caller) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (event == nullptr || stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  machine().record(*event, *stream, handle, is_pytorch_allocator(caller) ? caller : nullptr);
  return set_error(kSuccess);
}

/// 0 none, 1 active.
int capture_info(StreamHandle handle, int* status, unsigned long long* id) {
  const std::lock_guard lock{machine().mutex};
  const Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  *status = stream->capturing != nullptr ? 1 : 0;
  if (id != nullptr) {
    *id = stream->capturing != nullptr ? stream->capturing->id : 0;
  }
  return set_error(kSuccess);
}

}  // namespace
}  // namespace peakcast::capture

using namespace peakcast::capture;
using peakcast::TimedStreams;

PEAKCAST_EXPORT int cudaStreamCreate(StreamHandle* out) { return make_stream(out, 0); }
PEAKCAST_EXPORT int cudaStreamCreateWithFlags(StreamHandle* out, unsigned /*flags*/) {
  return make_stream(out, 0);
}
PEAKCAST_EXPORT int cudaStreamCreateWithPriority(StreamHandle* out, unsigned /*flags*/,
                                                 int priority) {
  return make_stream(out, priority);
}
PEAKCAST_EXPORT int cudaStreamDestroy(StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  if (Stream* const stream = machine().find(handle)) {
    stream->destroyed = true;
  }
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamGetPriority(StreamHandle handle, int* priority) {
  const std::lock_guard lock{machine().mutex};
  const Stream* const stream = machine().find(handle);
  *priority = stream != nullptr ? stream->priority : 0;
  return set_error(stream != nullptr ? kSuccess : kInvalidHandle);
}
PEAKCAST_EXPORT int cudaStreamGetFlags(StreamHandle /*stream*/, unsigned* flags) {
  *flags = 1;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamGetDevice(StreamHandle handle, int* card) {
  const std::lock_guard lock{machine().mutex};
  const Stream* const stream = machine().find(handle);
  *card = stream != nullptr ? stream->card : 0;
  return set_error(stream != nullptr ? kSuccess : kInvalidHandle);
}
PEAKCAST_EXPORT int cudaStreamGetId(StreamHandle handle, unsigned long long* id) {
  *id = reinterpret_cast<unsigned long long>(handle);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamSynchronize(StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  machine().synchronize(*stream, handle);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamQuery(StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  TimedStreams& clock = machine().cards[static_cast<std::size_t>(stream->card)]->clock;
  const peakcast::EventId event = clock.record(stream->id);
  const bool done = clock.completed(event);
  clock.forget(event);
  return done ? kSuccess : kNotReady;
}
PEAKCAST_EXPORT int cudaStreamWaitEvent(StreamHandle handle, Event* event, unsigned /*flags*/) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr || event == nullptr) {
    return set_error(kInvalidHandle);
  }
  machine().wait(*stream, handle, *event);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaLaunchHostFunc(StreamHandle /*stream*/, void (*function)(void*),
                                       void* argument) {
  function(argument);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamAddCallback(StreamHandle stream,
                                          void (*function)(StreamHandle, int, void*),
                                          void* argument, unsigned /*flags*/) {
  function(stream, kSuccess, argument);
  return set_error(kSuccess);
}

PEAKCAST_EXPORT int cudaEventCreate(Event** out) { return make_event(out, 0); }
PEAKCAST_EXPORT int cudaEventCreateWithFlags(Event** out, unsigned flags) {
  return make_event(out, flags);
}
PEAKCAST_EXPORT int cudaEventDestroy(Event* event) {
  const std::lock_guard lock{machine().mutex};
  if (event != nullptr && event->id) {
    machine().cards[static_cast<std::size_t>(event->card)]->clock.forget(*event->id);
  }
  delete event;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaEventRecord(Event* event, StreamHandle stream) {
  return record_event(event, stream, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaEventRecordWithFlags(Event* event, StreamHandle stream,
                                             unsigned /*flags*/) {
  return record_event(event, stream, __builtin_return_address(0));
}
PEAKCAST_EXPORT int cudaEventQuery(Event* event) {
  const std::lock_guard lock{machine().mutex};
  if (event == nullptr) {
    return set_error(kInvalidHandle);
  }
  if (!event->id) {
    return kSuccess;
  }
  TimedStreams& clock = machine().cards[static_cast<std::size_t>(event->card)]->clock;
  return clock.completed(*event->id) ? kSuccess : kNotReady;
}
PEAKCAST_EXPORT int cudaEventSynchronize(Event* event) {
  const std::lock_guard lock{machine().mutex};
  if (event == nullptr) {
    return set_error(kInvalidHandle);
  }
  machine().host_wait(*event);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaEventElapsedTime(float* milliseconds, Event* begin, Event* end) {
  const std::lock_guard lock{machine().mutex};
  *milliseconds = 0;
  if (begin == nullptr || end == nullptr || !begin->id || !end->id || begin->card != end->card) {
    return set_error(kInvalidHandle);
  }
  TimedStreams& clock = machine().cards[static_cast<std::size_t>(begin->card)]->clock;
  if (!clock.completed(*begin->id) || !clock.completed(*end->id)) {
    return kNotReady;
  }
  constexpr float kNanosecondsAMillisecond = 1e6F;
  *milliseconds =
      static_cast<float>((clock.completed_at(*end->id) - clock.completed_at(*begin->id)).count()) /
      kNanosecondsAMillisecond;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaEventElapsedTime_v2(float* milliseconds, Event* begin, Event* end) {
  return cudaEventElapsedTime(milliseconds, begin, end);
}

PEAKCAST_EXPORT int cudaStreamBeginCapture(StreamHandle handle, int /*mode*/) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  stream->capturing = std::make_shared<Graph>(Graph{.id = ++machine().captures});
  stream->began_capture = true;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamEndCapture(StreamHandle handle, GraphHandle* out) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  *out = nullptr;
  if (stream == nullptr || stream->capturing == nullptr) {
    return set_error(kCaptureInvalidated);
  }
  const std::shared_ptr<Graph> graph = stream->capturing;
  for (Stream& other : machine().streams) {
    if (other.capturing == graph) {
      other.capturing.reset();
      other.began_capture = false;
    }
  }
  *out = new std::shared_ptr<Graph>{graph};
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaStreamIsCapturing(StreamHandle stream, int* status) {
  return capture_info(stream, status, nullptr);
}
// Of any release: what follows `id` differs, and PyTorch asks for none of it.
PEAKCAST_EXPORT int cudaStreamGetCaptureInfo(StreamHandle stream, int* status,
                                             unsigned long long* id) {
  return capture_info(stream, status, id);
}
PEAKCAST_EXPORT int cudaStreamGetCaptureInfo_v2(StreamHandle stream, int* status,
                                                unsigned long long* id) {
  return capture_info(stream, status, id);
}
PEAKCAST_EXPORT int cudaStreamGetCaptureInfo_v3(StreamHandle stream, int* status,
                                                unsigned long long* id) {
  return capture_info(stream, status, id);
}
PEAKCAST_EXPORT int cudaThreadExchangeStreamCaptureMode(int* /*mode*/) {
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphInstantiateWithFlags(GraphHandle* out, GraphHandle graph,
                                                  unsigned long long /*flags*/) {
  *out = new std::shared_ptr<Graph>{*graph};
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphInstantiate(GraphHandle* out, GraphHandle graph,
                                         unsigned long long /*flags*/) {
  *out = new std::shared_ptr<Graph>{*graph};
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphLaunch(GraphHandle graph, StreamHandle handle) {
  const std::lock_guard lock{machine().mutex};
  Stream* const stream = machine().find(handle);
  if (stream == nullptr) {
    return set_error(kInvalidHandle);
  }
  machine().launch(*stream, handle, "graph", (*graph)->runs_for, (*graph)->nodes);
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphGetNodes(GraphHandle graph, void** /*nodes*/, std::size_t* count) {
  *count = (*graph)->nodes;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphDestroy(GraphHandle graph) {
  delete graph;
  return set_error(kSuccess);
}
PEAKCAST_EXPORT int cudaGraphExecDestroy(GraphHandle graph) {
  delete graph;
  return set_error(kSuccess);
}
