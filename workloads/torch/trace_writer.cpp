#include "workloads/torch/trace_writer.hpp"

#include <algorithm>

#include "workloads/torch/op_graph.hpp"

namespace peakcast::torch {

TraceWriter::TraceWriter(Trace& trace, const CostModel* cost_model, bool record_graph)
    : trace_{trace},
      cost_model_{cost_model},
      graph_{record_graph ? std::make_unique<OpGraph>() : nullptr} {}

TraceWriter::~TraceWriter() = default;

std::unique_ptr<OpGraph> TraceWriter::take_graph() { return std::move(graph_); }

std::uint32_t TraceWriter::intern(const char* name) {
  if (name == last_name_) {
    return last_label_;
  }
  last_name_ = name;
  for (const auto& [known, label] : labels_) {
    if (known == name) {
      return last_label_ = label;
    }
  }
  // The same words may live at two addresses.
  const std::string_view text{name};
  const auto found = std::find(trace_.strings.begin(), trace_.strings.end(), text);
  if (found == trace_.strings.end()) {
    trace_.strings.emplace_back(text);
    last_label_ = static_cast<std::uint32_t>(trace_.strings.size());
  } else {
    last_label_ = static_cast<std::uint32_t>(found - trace_.strings.begin()) + 1;
  }
  labels_.emplace_back(name, last_label_);
  return last_label_;
}

std::uint32_t TraceWriter::take_buffer() {
  const std::uint32_t buffer = buffers_.take();
  trace_.buffer_slots = buffers_.end();
  return buffer;
}

void TraceWriter::put(const Op& op, std::uint32_t label) {
  trace_.ops.push_back(op);
  trace_.labels.push_back(label);
}

std::uint32_t TraceWriter::host_allocate(Bytes size) {
  const std::uint32_t buffer = take_buffer();
  put({size.count(), buffer, 0, OpKind::host_allocate, 0});
  return buffer;
}

void TraceWriter::host_free(std::uint32_t buffer) {
  if (ended_) {
    return;
  }
  put({0, buffer, 0, OpKind::host_free, 0});
  buffers_.give_back(buffer);
}

void TraceWriter::driver_memory(Bytes size) { put({size.count(), 0, 0, OpKind::driver_memory, 0}); }

void TraceWriter::local_memory(Bytes size) { put({size.count(), 0, 0, OpKind::local_memory, 0}); }

TraceWriter::Allocation TraceWriter::allocate(Bytes size, Category category) {
  Allocation made;
  made.buffer = take_buffer();
  made.op_index = static_cast<std::uint32_t>(trace_.ops.size());
  put({size.count(), made.buffer, static_cast<std::uint16_t>(stream.value), OpKind::allocate,
       static_cast<std::uint8_t>(category)},
      intern(op_name));
  return made;
}

void TraceWriter::free(std::uint32_t buffer, StreamId on, bool reusable) {
  if (ended_) {
    return;
  }
  put({0, buffer, static_cast<std::uint16_t>(on.value), OpKind::free, 0}, intern(op_name));
  if (reusable) {
    buffers_.give_back(buffer);
  }
}

void TraceWriter::record_stream(std::uint32_t buffer, StreamId on) {
  put({0, buffer, static_cast<std::uint16_t>(on.value), OpKind::record_stream, 0});
}

void TraceWriter::set_category(std::uint32_t op_index, Category category) {
  std::uint8_t& flags = trace_.ops[op_index].flags;
  flags = static_cast<std::uint8_t>((flags & ~kCategoryMask) | static_cast<std::uint8_t>(category));
}

void TraceWriter::mark(MarkKind kind, std::string_view what) {
  auto found = std::find(trace_.strings.begin(), trace_.strings.end(), what);
  if (found == trace_.strings.end()) {
    trace_.strings.emplace_back(what);
    found = trace_.strings.end() - 1;
  }
  put({0, static_cast<std::uint32_t>(found - trace_.strings.begin()), 0, OpKind::mark,
       static_cast<std::uint8_t>(kind)});
}

void TraceWriter::write_launch(const KernelCost& cost) {
  if (cost_model_ == nullptr) {
    return;
  }
  const std::uint32_t label = intern(op_name);
  if (loaded_.size() <= label) {
    loaded_.resize(label + 1);
  }
  if (!loaded_[label]) {
    // Loading a kernel may wait for the card (CUDA programming guide, "Lazy loading"). It does:
    // what the card had passed, written by itself to host memory behind each free, reaches the last
    // free there (H100, 2026-11-28).
    loaded_[label] = true;
    host_work(HostWork::kernel_load);
    wait_within_driver();
  }
  put({cost_model_->kernel(cost).count(), 0, static_cast<std::uint16_t>(stream.value),
       OpKind::launch, 0},
      label);
  // An operator allocates shortly before it launches: what the host does comes before both, that is
  // behind the launch before.
  host_work(cost.from_native ? HostWork::native_op : HostWork::op);
}

void TraceWriter::write_collective(const CollectiveCost& cost) {
  if (cost_model_ == nullptr) {
    return;
  }
  host_work(HostWork::shard_hook);
  put({cost_model_->collective(cost).count(), 0, static_cast<std::uint16_t>(stream.value),
       OpKind::collective, 0},
      intern(op_name));
}

void TraceWriter::host_work(HostWork work, std::int64_t count) {
  if (cost_model_ == nullptr || count == 0 || ended_) {
    return;
  }
  const std::int64_t nanoseconds = cost_model_->host(work, thread).count() * count;
  if (!trace_.ops.empty() && trace_.ops.back().kind == OpKind::host_work) {
    trace_.ops.back().value += nanoseconds;  // no op between: one span
    return;
  }
  put({nanoseconds, 0, 0, OpKind::host_work, 0});
}

std::uint32_t TraceWriter::record_event(StreamId on) {
  const std::uint32_t event = trace_.event_slots++;
  put({0, event, static_cast<std::uint16_t>(on.value), OpKind::record_event, 0});
  return event;
}

void TraceWriter::wait_event(StreamId on, std::uint32_t event) {
  put({0, event, static_cast<std::uint16_t>(on.value), OpKind::wait_event, 0});
}

void TraceWriter::host_wait(std::uint32_t event) { put({0, event, 0, OpKind::host_wait, 0}); }

void TraceWriter::synchronize() { put({0, 0, 0, OpKind::synchronize, kAllStreams}); }

void TraceWriter::wait_within_driver() {
  put({0, 0, 0, OpKind::synchronize, kAllStreams | kWithinDriver});
}

void TraceWriter::synchronize_stream() {
  put({0, 0, static_cast<std::uint16_t>(stream.value), OpKind::synchronize, 0});
}

void TraceWriter::empty_cache() { put({0, 0, 0, OpKind::empty_cache, 0}); }

StreamId TraceWriter::make_stream() {
  const StreamId made{static_cast<std::uint32_t>(trace_.streams.size())};
  trace_.streams.push_back(trace_.streams.back() + 1);
  return made;
}

}  // namespace peakcast::torch
