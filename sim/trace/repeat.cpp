#include "sim/trace/repeat.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace peakcast {
namespace {

/// Which buffer an op means: one that the iteration allocates, by number, or one from before.
struct Reference {
  bool own{};
  std::uint32_t which{};
};

/// The ops of the last iteration, and what happens to buffers across its ends.
struct Iteration {
  std::vector<Op> ops{};
  std::vector<Reference> buffers{};     ///< of the ops; nothing where one has none
  std::vector<std::uint32_t> labels{};  ///< of the ops; or empty
  std::vector<std::uint32_t> born{};    ///< buffers that it allocates, by number
  std::unordered_map<std::uint32_t, std::uint32_t> heir{};  ///< buffer from before -> born number
  std::vector<std::uint32_t> unclaimed{};  ///< born numbers: left behind, and nothing frees them
  std::vector<std::uint32_t> held{};       ///< born numbers: freed, but another stream had not done
};

std::optional<std::size_t> last_mark(const Trace& trace) {
  for (std::size_t i = trace.ops.size(); i-- > 0;) {
    if (trace.ops[i].kind == OpKind::mark && mark_kind_of(trace.ops[i]) == MarkKind::iteration) {
      return i;
    }
  }
  return std::nullopt;
}

/// Sizes of the buffers that live when op `end` begins.
std::unordered_map<std::uint32_t, std::int64_t> living(const Trace& trace, std::size_t end) {
  std::unordered_map<std::uint32_t, std::int64_t> sizes;
  for (std::size_t i = 0; i < end; ++i) {
    const Op& op = trace.ops[i];
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      sizes[op.id] = op.value;
    } else if (op.kind == OpKind::free) {
      sizes.erase(op.id);
    }
  }
  return sizes;
}

/// Follows the iteration's buffers: `taken` gets those from before that it frees, in that order.
void follow(Iteration& iteration, std::map<std::uint32_t, std::int64_t>& left,
            std::vector<std::uint32_t>& taken) {
  std::unordered_map<std::uint32_t, std::uint32_t> number;  // of a buffer; ids are used again
  std::set<std::uint32_t> used_elsewhere;
  std::set<std::uint32_t> held;
  for (const Op& op : iteration.ops) {
    if (op.kind == OpKind::allocate) {
      const auto fresh = static_cast<std::uint32_t>(iteration.born.size());
      number[op.id] = fresh;
      iteration.born.push_back(op.id);
      if ((op.flags & kAttempt) == 0) {
        left[fresh] = op.value;
      }
    }
    const auto born = number.find(op.id);
    const bool own = born != number.end();
    iteration.buffers.push_back({own, own ? born->second : op.id});
    if (op.kind == OpKind::record_stream && own) {
      used_elsewhere.insert(born->second);
    } else if (op.kind == OpKind::free && own) {
      left.erase(born->second);
      if (used_elsewhere.contains(born->second)) {
        held.insert(born->second);
      }
    } else if (op.kind == OpKind::free) {
      taken.push_back(op.id);
    } else if (op.kind == OpKind::complete && own) {
      held.erase(born->second);
    }
  }
  iteration.held.assign(held.begin(), held.end());
}

Iteration last_iteration(const Trace& trace, std::size_t begin) {
  Iteration iteration;
  const auto from = static_cast<std::ptrdiff_t>(begin);
  iteration.ops.assign(trace.ops.begin() + from, trace.ops.end());
  if (!trace.labels.empty()) {
    iteration.labels.assign(trace.labels.begin() + from, trace.labels.end());
  }
  std::map<std::uint32_t, std::int64_t> left;
  std::vector<std::uint32_t> taken;
  follow(iteration, left, taken);
  std::multimap<std::int64_t, std::uint32_t> by_size;  // of equals, in the order of allocation
  for (const auto& [number, size] : left) {
    by_size.emplace(size, number);
  }
  const auto sizes = living(trace, begin);
  for (const std::uint32_t buffer : taken) {
    const auto size = sizes.find(buffer);
    const auto match = size == sizes.end() ? by_size.end() : by_size.find(size->second);
    if (match != by_size.end()) {
      iteration.heir[buffer] = match->second;
      by_size.erase(match);
    }
  }
  for (const auto& [size, number] : by_size) {
    iteration.unclaimed.push_back(number);
  }
  std::sort(iteration.unclaimed.begin(), iteration.unclaimed.end());
  return iteration;
}

/// Buffers of copy `copy` (-1: the iteration itself). A copy's are gone when the next but one
/// begins, so two sets of slots serve all.
class Slots {
 public:
  Slots(const Iteration& iteration, std::uint32_t first) : iteration_{iteration}, first_{first} {}
  [[nodiscard]] std::uint32_t of(std::int64_t copy, std::uint32_t number) const {
    const auto set = static_cast<std::uint32_t>(copy % 2);
    return copy < 0 ? iteration_.born[number] : first_ + set * count() + number;
  }
  [[nodiscard]] std::uint32_t count() const {
    return static_cast<std::uint32_t>(iteration_.born.size());
  }

 private:
  const Iteration& iteration_;
  std::uint32_t first_;
};

/// The buffer that op `i` of the iteration means in copy `copy`; nullopt: none that is there.
std::optional<std::uint32_t> buffer_of(std::size_t i, const Iteration& iteration,
                                       const Slots& slots, std::int64_t copy) {
  const Reference& buffer = iteration.buffers[i];
  if (buffer.own) {
    return slots.of(copy, buffer.which);
  }
  const auto heir = iteration.heir.find(buffer.which);
  if (heir == iteration.heir.end() || iteration.ops[i].kind == OpKind::complete) {
    return std::nullopt;  // it lives on in no copy, or came back when the copy began
  }
  return slots.of(copy - 1, heir->second);
}

void append_copy(Trace& trace, const Iteration& iteration, const Slots& slots, std::int64_t copy) {
  const auto add = [&](const Op& op, std::uint32_t label) {
    trace.ops.push_back(op);
    if (!trace.labels.empty()) {
      trace.labels.push_back(label);
    }
  };
  for (std::size_t i = 0; i < iteration.ops.size(); ++i) {
    Op op = iteration.ops[i];
    const bool of_buffer = op.kind == OpKind::allocate || op.kind == OpKind::free ||
                           op.kind == OpKind::record_stream || op.kind == OpKind::complete;
    if (of_buffer) {
      const std::optional<std::uint32_t> buffer = buffer_of(i, iteration, slots, copy);
      if (!buffer) {
        continue;
      }
      op.id = *buffer;
    }
    add(op, iteration.labels.empty() ? 0 : iteration.labels[i]);
    if (i > 0) {
      continue;
    }
    for (const std::uint32_t number : iteration.held) {
      add({.id = slots.of(copy - 1, number), .kind = OpKind::complete}, 0);
    }
    for (const std::uint32_t number : iteration.unclaimed) {
      add({.id = slots.of(copy - 1, number), .kind = OpKind::free}, 0);
    }
  }
}

}  // namespace

Expected<Trace> repeat_last_iteration(Trace trace, std::int64_t times) {
  const std::optional<std::size_t> begin = last_mark(trace);
  if (!begin) {
    return invalid_input("the trace has no iteration marks, so none can be repeated");
  }
  const Iteration iteration = last_iteration(trace, *begin);
  const auto ops = static_cast<std::int64_t>(trace.ops.size());
  const std::int64_t each =
      std::ssize(iteration.ops) + std::ssize(iteration.held) + std::ssize(iteration.unclaimed);
  if (times > (kMostRepeatedOps - ops) / std::max<std::int64_t>(each, 1)) {
    return invalid_input("the trace and its repeats would be more than " +
                         std::to_string(kMostRepeatedOps) + " ops");
  }
  const Slots slots{iteration, trace.buffer_slots};
  trace.buffer_slots += 2 * slots.count();
  for (std::int64_t copy = 0; copy < times; ++copy) {
    append_copy(trace, iteration, slots, copy);
  }
  trace.times_us.clear();
  if (trace.recording) {
    Recording& recording = *trace.recording;
    recording.events.clear();
    recording.event_of_op.clear();
    recording.times_us.clear();
    recording.labels.clear();
    recording.final_statistics.clear();
    recording.segments.clear();
  }
  return trace;
}

}  // namespace peakcast
