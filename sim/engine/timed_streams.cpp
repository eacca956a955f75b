#include "sim/engine/timed_streams.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace peakcast {

TimedStreams::TimedStreams(const TimedStreamsOptions& options)
    : options_{options}, streams_(options.streams) {
  check(options.streams > 0, "a device has at least the default stream");
  check(options.queue_depth > 0, "a stream's queue holds at least one launch");
}

std::uint32_t TimedStreams::new_event() { return events_.take(); }

void TimedStreams::release(std::uint32_t event) {
  check(events_[event].references > 0, "an event is released once per reference");
  if (--events_[event].references == 0) {
    events_.give_back(event);
  }
}

EventId TimedStreams::record(StreamId stream) {
  check(stream.value < streams_.size(), "a stream of this device");
  const std::uint32_t event = new_event();
  Stream& queue = streams_[stream.value];
  if (queue.commands.empty()) {  // nothing to wait for: the event is complete as it is recorded
    events_[event].references = 1;
    events_[event].done = true;
    events_[event].at = std::max(host_now_, device_now_);
    return EventId{event};
  }
  events_[event].references = 2;
  queue.commands.push_back(Command{.event = event, .kind = CommandKind::record});
  return EventId{event};
}

StreamId TimedStreams::add_stream() {
  streams_.emplace_back();
  return StreamId{static_cast<std::uint32_t>(streams_.size() - 1)};
}

SimTime TimedStreams::completed_at(EventId event) const {
  check(event.value < events_.size() && events_[event.value].done, "a completed event");
  return events_[event.value].at;
}

bool TimedStreams::completed(EventId event) {
  check(event.value < events_.size() && events_[event.value].references > 0, "a live event");
  return events_[event.value].done;
}

void TimedStreams::forget(EventId event) { release(event.value); }

void TimedStreams::wait_event(StreamId stream, EventId event) {
  check(stream.value < streams_.size(), "a stream of this device");
  if (completed(event)) {
    return;
  }
  ++events_[event.value].references;
  Stream& queue = streams_[stream.value];
  queue.commands.push_back(Command{.event = event.value, .kind = CommandKind::wait});
  if (!queue.blocked) {
    advance_stream(stream.value);
  }
}

void TimedStreams::launch(StreamId stream, WorkKind kind, SimDuration runs_for,
                          std::uint32_t label) {
  check(stream.value < streams_.size(), "a stream of this device");
  check(runs_for >= SimDuration::zero(), "work takes no negative time");
  spend(options_.launch_cost, HostActivity::program);
  Stream& queue = streams_[stream.value];
  wait_until([&] { return queue.pending_work < options_.queue_depth; });
  ++queue.pending_work;
  queue.commands.push_back(
      Command{.runs_for = runs_for, .label = label, .kind = CommandKind::work, .work = kind});
  if (!queue.blocked) {
    advance_stream(stream.value);
  }
}

void TimedStreams::spend(SimDuration duration, HostActivity activity) {
  check(duration >= SimDuration::zero(), "the host works no negative time");
  host_now_ += duration;
  pass(host_now_, activity);
}

/// Runs the device until `done()`, and lets the host's clock follow.
template <class Done>
void TimedStreams::wait_until(const Done& done) {
  while (!done()) {
    check(!queue_.empty(), "what the host waits for is on its way: streams never deadlock");
    host_now_ = std::max(host_now_, queue_.top().key.at);
    pass(host_now_, HostActivity::waiting);
  }
}

void TimedStreams::wait(EventId event) {
  wait_until([&] { return completed(event); });
}

void TimedStreams::synchronize(StreamId stream) {
  check(stream.value < streams_.size(), "a stream of this device");
  wait_until([&] { return streams_[stream.value].commands.empty(); });
}

void TimedStreams::synchronize_device() {
  for (std::uint32_t stream = 0; stream < streams_.size(); ++stream) {
    synchronize(StreamId{stream});
  }
}

void TimedStreams::drain() {
  while (!queue_.empty()) {
    pass(queue_.top().key.at, HostActivity::waiting);
  }
}

/// Counts the time up to `until`, in which nothing on the device changes.
void TimedStreams::elapse(SimTime until, HostActivity activity) {
  if (until <= device_now_) {
    return;
  }
  const SimDuration passed = until - device_now_;
  device_now_ = until;
  if (kernel_running_) {
    kernel_time_ += passed;
  }
  if (collectives_running_ > 0) {
    collective_time_ += passed;
  }
  if (kernel_running_) {
    split_.compute += passed;
  } else if (collectives_running_ > 0) {
    split_.communication += passed;
  } else if (activity == HostActivity::allocator) {
    split_.allocator += passed;
  } else {
    split_.host += passed;
  }
}

/// Simulates the device up to and including `until`, while the host does `activity`.
void TimedStreams::pass(SimTime until, HostActivity activity) {
  while (!queue_.empty() && queue_.top().key.at <= until) {
    const Entry entry = queue_.top();
    queue_.pop();
    elapse(entry.key.at, activity);
    complete(entry.stream);
  }
  elapse(until, activity);
}

void TimedStreams::complete(std::uint32_t stream) {
  Stream& queue = streams_[stream];
  const Command done = queue.commands.front();
  queue.commands.pop_front();
  --queue.pending_work;
  if (done.work == WorkKind::kernel) {
    kernel_running_ = false;
  } else {
    --collectives_running_;
  }
  if (sink_ != nullptr) {
    sink_->on_work(StreamId{stream}, done.work, queue.began, device_now_, done.label);
  }
  queue.blocked = false;
  advance_stream(stream);
  // First ready, first served: the stream that was just served comes after those that wait.
  if (done.work == WorkKind::kernel && !kernel_running_ && !units_queue_.empty()) {
    const std::uint32_t next = units_queue_.front();
    units_queue_.pop_front();
    kernel_running_ = true;
    begin_work(next);
  }
}

/// Works off the front commands of an unblocked stream until one takes time.
void TimedStreams::advance_stream(std::uint32_t stream) {
  Stream& queue = streams_[stream];
  while (!queue.commands.empty()) {
    const Command& front = queue.commands.front();
    if (front.kind == CommandKind::work) {
      queue.blocked = true;
      if (front.work == WorkKind::collective) {
        ++collectives_running_;
        begin_work(stream);
      } else if (kernel_running_ || !units_queue_.empty()) {
        units_queue_.push_back(stream);
      } else {
        kernel_running_ = true;
        begin_work(stream);
      }
      return;
    }
    const std::uint32_t event = front.event;
    if (front.kind == CommandKind::wait && !events_[event].done) {
      queue.blocked = true;
      events_[event].waiting.push_back(stream);
      return;
    }
    const CommandKind kind = front.kind;
    queue.commands.pop_front();
    if (kind == CommandKind::record) {
      events_[event].done = true;
      events_[event].at = device_now_;
      const std::vector<std::uint32_t> waiting = std::move(events_[event].waiting);
      events_[event].waiting.clear();
      for (const std::uint32_t waiter : waiting) {
        streams_[waiter].blocked = false;
        advance_stream(waiter);
      }
    }
    release(event);
  }
}

/// Precondition: the units are taken for it if the front command is a kernel.
void TimedStreams::begin_work(std::uint32_t stream) {
  Stream& queue = streams_[stream];
  queue.began = device_now_;
  queue_.push(Entry{EventKey{device_now_ + queue.commands.front().runs_for, sequence_++}, stream});
}

}  // namespace peakcast
