#include "sim/engine/paced_streams.hpp"

#include <algorithm>

namespace peakcast {
namespace {

/// Durations are cut to this (36 minutes), so that the product of two of them fits.
constexpr std::int64_t kMostUs = std::int64_t{1} << 31;

std::int64_t duration(std::int64_t from_us, std::int64_t to_us) {
  return to_us <= from_us ? 0 : std::min(to_us - from_us, kMostUs);
}

}  // namespace

PacedStreams::PacedStreams(const Trace& trace) : trace_{trace} {
  constexpr std::int64_t kLatest = std::int64_t{1} << 62;
  const auto absurd = [](std::int64_t time) { return time < 0 || time > kLatest; };
  if (trace.times_us.empty() || std::any_of(trace.times_us.begin(), trace.times_us.end(), absurd)) {
    return;
  }
  const auto end_iteration = [&](std::int64_t at_us) {
    if (!iterations_.empty()) {
      Iteration& last = iterations_.back();
      last.whole_us = std::max(duration(last.begins_us, at_us), last.issued_us);
    }
  };
  for (std::size_t i = 0; i < trace.ops.size(); ++i) {
    const Op& op = trace.ops[i];
    if (op.kind == OpKind::mark && mark_kind_of(op) == MarkKind::iteration) {
      end_iteration(trace.times_us[i]);
      iterations_.push_back({.first_op = i, .begins_us = trace.times_us[i]});
    } else if (!iterations_.empty() && (op.kind == OpKind::allocate || op.kind == OpKind::free)) {
      iterations_.back().issued_us = duration(iterations_.back().begins_us, trace.times_us[i]);
    }
  }
  end_iteration(trace.times_us.back());
}

void PacedStreams::at(std::size_t op_index) {
  if (iterations_.empty()) {
    return;
  }
  now_us_ = std::max(now_us_, trace_.times_us[op_index]);
  while (iteration_ < iterations_.size() && iterations_[iteration_].first_op <= op_index) {
    ++iteration_;
  }
}

EventId PacedStreams::record(StreamId /*stream*/) {
  const std::uint32_t event = ends_us_.take(now_us_);
  if (iteration_ > 0) {
    const Iteration& now = iterations_[iteration_ - 1];
    if (now.issued_us > 0) {
      const std::int64_t elapsed = duration(now.begins_us, now_us_);
      ends_us_[event] = std::max(now_us_, now.begins_us + elapsed * now.whole_us / now.issued_us);
    }
  }
  return EventId{event};
}

void PacedStreams::synchronize_device() {
  for (std::int64_t& end : ends_us_) {
    end = std::min(end, now_us_);
  }
}

}  // namespace peakcast
