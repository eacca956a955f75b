#include "sim/trace/trace_summary.hpp"

#include <algorithm>
#include <vector>

namespace peakcast {

std::string_view to_string(OpKind kind) {
  static constexpr std::array<std::string_view, kOpKindCount> kNames{
      "allocate",   "free",          "record_stream", "complete",      "empty_cache", "launch",
      "collective", "record_event",  "wait_event",    "host_wait",     "synchronize", "host_work",
      "mark",       "host_allocate", "host_free",     "driver_memory", "local_memory"};
  return kNames.at(static_cast<std::size_t>(kind));
}

namespace {

std::optional<TraceSummary::FinalHeap> final_heap_of(const Recording& recording) {
  if (recording.segments.empty()) {
    return std::nullopt;
  }
  TraceSummary::FinalHeap heap;
  for (const RecordedSegment& segment : recording.segments) {
    heap.reserved += segment.size;
    const bool in_use = std::any_of(segment.blocks.begin(), segment.blocks.end(),
                                    [](const RecordedBlock& block) { return block.active; });
    for (const RecordedBlock& block : segment.blocks) {
      heap.allocated += block.allocated ? block.size : Bytes{};
      heap.active += block.active ? block.size : Bytes{};
      if (!block.active) {
        heap.inactive += block.size;
        heap.inactive_split += in_use ? block.size : Bytes{};
        heap.largest_free = std::max(heap.largest_free, block.size);
      }
    }
  }
  return heap;
}

}  // namespace

TraceSummary summary_of(const Trace& trace) {
  TraceSummary out;
  std::vector<Bytes> live(trace.buffer_slots);
  for (std::size_t i = 0; i < trace.ops.size(); ++i) {
    const Op& op = trace.ops[i];
    ++out.ops.at(static_cast<std::size_t>(op.kind));
    if (op.kind == OpKind::allocate) {
      const Bytes size{op.value};
      out.total += size;
      out.largest = std::max(out.largest, size);
      if ((op.flags & kAttempt) != 0) {
        ++out.attempts;
        continue;
      }
      out.preexisting += (op.flags & kPreexisting) != 0 ? 1 : 0;
      live[op.id] = size;
      out.end_live += size;
      ++out.end_buffers;
      if (out.end_live > out.peak_live) {
        out.peak_live = out.end_live;
        out.peak_op = static_cast<std::int64_t>(i);
        out.peak_buffers = out.end_buffers;
      }
    } else if (op.kind == OpKind::free) {
      out.end_live -= live[op.id];
      live[op.id] = Bytes{};
      --out.end_buffers;
    } else if (op.kind == OpKind::complete) {
      out.at_sync += (op.flags & kAtSync) != 0 ? 1 : 0;
    } else if (op.kind == OpKind::mark && mark_kind_of(op) == MarkKind::iteration) {
      ++out.iterations;
    }
  }
  if (trace.recording) {
    out.final_heap = final_heap_of(*trace.recording);
    constexpr std::int64_t kBlock = 512;
    bool rounded = true;
    for (const AllocatorEvent& event : trace.recording->events) {
      ++out.events.at(static_cast<std::size_t>(event.action));
      rounded = rounded && (event.action != Action::alloc || event.size.count() % kBlock == 0);
    }
    constexpr std::int64_t kEnough = 100;
    out.sizes_look_rounded =
        rounded && out.events.at(static_cast<std::size_t>(Action::alloc)) >= kEnough;
  }
  if (!trace.times_us.empty()) {
    out.duration_us = trace.times_us.back() - trace.times_us.front();
  }
  return out;
}

Bytes memory_of(const Trace& trace) {
  const auto held = []<class T>(const std::vector<T>& items) {
    return static_cast<std::int64_t>(items.capacity() * sizeof(T));
  };
  std::int64_t sum = held(trace.ops) + held(trace.streams) + held(trace.strings) +
                     held(trace.labels) + held(trace.times_us);
  if (trace.recording) {
    const Recording& recording = *trace.recording;
    sum += held(recording.events) + held(recording.event_of_op) + held(recording.times_us) +
           held(recording.labels) + held(recording.final_statistics) + held(recording.segments);
    for (const RecordedSegment& segment : recording.segments) {
      sum += held(segment.blocks);
    }
  }
  for (const std::string& word : trace.strings) {
    sum += static_cast<std::int64_t>(word.capacity());
  }
  return Bytes{sum};
}

}  // namespace peakcast
