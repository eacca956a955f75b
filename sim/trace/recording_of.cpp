#include "sim/trace/recording_of.hpp"

#include <vector>

namespace peakcast {

Recording recording_of(const Trace& trace) {
  if (trace.recording) {
    return *trace.recording;
  }
  using namespace literals;
  Recording out;
  std::vector<AllocatorEvent> live(trace.buffer_slots);
  Address next{std::uint64_t{1} << 46};
  const auto put = [&](const AllocatorEvent& event, std::size_t op) {
    out.events.push_back(event);
    if (!trace.times_us.empty()) {
      out.times_us.push_back(trace.times_us[op]);
    }
    if (!trace.labels.empty()) {
      out.labels.push_back(trace.labels[op]);
    }
  };
  for (std::size_t i = 0; i < trace.ops.size(); ++i) {
    const Op& op = trace.ops[i];
    if (op.kind == OpKind::allocate) {
      AllocatorEvent event{next, Bytes{op.value}, StreamId{op.stream}, Action::alloc};
      if ((op.flags & kAttempt) != 0) {
        event.action = Action::oom;
        event.address = Address{};
      } else {
        live[op.id] = event;
        next = next + round_up(event.size, 512_B);
      }
      put(event, i);
    } else if (op.kind == OpKind::free) {
      AllocatorEvent event = live[op.id];
      event.action = Action::free_requested;
      put(event, i);
      event.action = Action::free_completed;
      put(event, i);
    }
  }
  return out;
}

}  // namespace peakcast
