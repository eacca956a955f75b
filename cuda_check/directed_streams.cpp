#include "cuda_check/directed_streams.hpp"

#include <cstddef>

namespace peakcast {

EventId DirectedStreams::record(StreamId stream) {
  const EventId event = directs_->record(stream);
  if (event.value >= worked_.size()) {
    worked_.resize(static_cast<std::size_t>(event.value) + 1);
  }
  worked_[event.value] = works_->record(stream);
  return event;
}

bool DirectedStreams::completed(EventId event) {
  if (!directs_->completed(event)) {
    return false;
  }
  works_->wait(worked_.at(event.value));
  return true;
}

void DirectedStreams::wait(EventId event) {
  directs_->wait(event);
  works_->wait(worked_.at(event.value));
}

void DirectedStreams::stream_wait(StreamId waiter, EventId event) {
  directs_->stream_wait(waiter, event);
  works_->stream_wait(waiter, worked_.at(event.value));
}

void DirectedStreams::synchronize(StreamId stream) {
  directs_->synchronize(stream);
  works_->synchronize(stream);
}

void DirectedStreams::synchronize_device() {
  directs_->synchronize_device();
  works_->synchronize_device();
}

void DirectedStreams::forget(EventId event) {
  works_->forget(worked_.at(event.value));
  directs_->forget(event);
}

}  // namespace peakcast
