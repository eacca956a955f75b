#include "sim/trace/trace_diff.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/trace/alignment.hpp"

namespace peakcast {
namespace {

constexpr std::uint32_t kNone = 0xffffffff;

struct Buffer {
  std::uint32_t allocate{};   // index into Side::keys
  std::uint32_t free{kNone};  // the same
  std::int64_t size{};        // requested
};

/// A trace as the alignment sees it.
struct Side {
  std::vector<std::uint64_t> keys{};
  std::vector<std::size_t> op_of{};        // by key: into Trace::ops
  std::vector<std::uint32_t> buffer_of{};  // by key; kNone for empty_cache
  std::vector<std::uint32_t> phase_of{};   // by key: into phases
  std::vector<std::string> phases{""};
  std::vector<std::int64_t> iteration_of{-1};  // by phase
  std::vector<Buffer> buffers{};
  PeakPlace peak{};
  std::vector<bool> live_at_peak{};             // by buffer
  std::vector<std::uint32_t> partner{};         // by key: the other side's key, or kNone
  std::vector<std::uint32_t> buffer_partner{};  // by buffer: the other side's buffer, or kNone
};

Bytes rounded(std::int64_t size) {
  using namespace literals;
  return round_up(Bytes{size}, 512_B);
}

std::uint64_t mixed(std::uint64_t kind, std::uint64_t size, std::uint64_t stream) {
  // Injective: kinds below 4, streams up to 2^14, sizes up to 2^48; beyond that streams fold.
  return kind << 62U | (stream & 0x3fffU) << 48U | (size & 0xffffffffffffU);
}

class SideBuilder {
 public:
  explicit SideBuilder(const Trace& trace) : trace_{trace} {}

  Side run() {
    // Buffers of slots, and streams by first use: two recordings of one program agree in that,
    // and in no handle.
    std::vector<std::uint32_t> buffer_of_slot(trace_.buffer_slots, kNone);
    std::vector<std::uint32_t> order(trace_.streams.size(), kNone);
    std::uint32_t streams = 0;
    std::int64_t iteration = -1;
    std::string iteration_name;
    Bytes live{};
    std::int64_t count = 0;
    std::size_t peak_key = 0;
    for (std::size_t i = 0; i < trace_.ops.size(); ++i) {
      const Op& op = trace_.ops[i];
      const auto stream = [&] {
        std::uint32_t& rank = order[op.stream];
        rank = rank == kNone ? streams++ : rank;
        return rank;
      };
      if (op.kind == OpKind::mark && mark_kind_of(op) != MarkKind::op) {
        // "iter3", then "iter3/backward".
        const bool begins = mark_kind_of(op) == MarkKind::iteration;
        iteration += begins ? 1 : 0;
        const std::string& name = trace_.strings[op.id];
        iteration_name = begins ? name : iteration_name;
        std::string phase = begins || iteration_name.empty() ? "" : iteration_name;
        phase.append(phase.empty() ? "" : "/").append(name);
        side_.phases.push_back(std::move(phase));
        side_.iteration_of.push_back(iteration);
      } else if (op.kind == OpKind::allocate) {
        const bool attempt = (op.flags & kAttempt) != 0;
        const auto buffer = static_cast<std::uint32_t>(side_.buffers.size());
        put(mixed(attempt ? 3 : 0, static_cast<std::uint64_t>(op.value), stream()), i,
            attempt ? kNone : buffer);
        if (!attempt) {
          side_.buffers.push_back({last_key(), kNone, op.value});
          buffer_of_slot[op.id] = buffer;
          live += rounded(op.value);
          ++count;
          if (live > side_.peak.allocated) {
            side_.peak.allocated = live;
            side_.peak.buffers = count;
            side_.peak.op = i;
            peak_key = last_key();
          }
        }
      } else if (op.kind == OpKind::free) {
        const std::uint32_t buffer = buffer_of_slot[op.id];
        check(buffer != kNone, "a free of a live buffer");
        const std::int64_t size = side_.buffers[buffer].size;
        put(mixed(1, static_cast<std::uint64_t>(size), stream()), i, buffer);
        side_.buffers[buffer].free = last_key();
        live -= rounded(size);
        --count;
      } else if (op.kind == OpKind::empty_cache) {
        put(mixed(2, 0, 0), i, kNone);
      }
    }
    for (const Buffer& buffer : side_.buffers) {
      side_.live_at_peak.push_back(buffer.allocate <= peak_key &&
                                   (buffer.free == kNone || buffer.free > peak_key));
    }
    if (!side_.keys.empty()) {
      side_.peak.phase = side_.phases[side_.phase_of[peak_key]];
      side_.peak.iteration = side_.iteration_of[side_.phase_of[peak_key]];
    }
    side_.partner.assign(side_.keys.size(), kNone);
    return std::move(side_);
  }

 private:
  void put(std::uint64_t key, std::size_t op, std::uint32_t buffer) {
    side_.keys.push_back(key);
    side_.op_of.push_back(op);
    side_.buffer_of.push_back(buffer);
    side_.phase_of.push_back(static_cast<std::uint32_t>(side_.phases.size() - 1));
  }
  [[nodiscard]] std::uint32_t last_key() const {
    return static_cast<std::uint32_t>(side_.keys.size() - 1);
  }

  const Trace& trace_;
  Side side_{};
};

/// Live at the peak of `side`, and `chosen`.
template <class Chosen>
PeakShare share_of(const Trace& trace, const Side& side, Chosen chosen) {
  PeakShare out;
  std::map<std::tuple<std::int64_t, std::string>, BufferGroup> groups;
  for (std::uint32_t i = 0; i < side.buffers.size(); ++i) {
    if (!side.live_at_peak[i] || !chosen(i)) {
      continue;
    }
    const Buffer& buffer = side.buffers[i];
    const std::size_t op = side.op_of[buffer.allocate];
    const std::string label = op < trace.labels.size() && trace.labels[op] != 0
                                  ? trace.strings[trace.labels[op] - 1]
                                  : "";
    ++out.buffers;
    out.allocated += rounded(buffer.size);
    BufferGroup& group = groups[{-buffer.size, label}];
    if (group.count++ == 0) {
      group.size = Bytes{buffer.size};
      group.label = label;
      group.phase = side.phases[side.phase_of[buffer.allocate]];
    }
  }
  for (auto& [key, group] : groups) {
    out.groups.push_back(std::move(group));
  }
  // Largest total first; equal totals keep the map's order (size descending, then label).
  std::stable_sort(out.groups.begin(), out.groups.end(),
                   [](const BufferGroup& x, const BufferGroup& y) {
                     return x.size * x.count > y.size * y.count;
                   });
  return out;
}

/// Allocations without a partner: their keys, and where they stand.
void left_over(const Side& side, std::vector<std::uint64_t>& keys,
               std::vector<std::uint32_t>& buffers) {
  for (std::uint32_t i = 0; i < side.buffers.size(); ++i) {
    if (side.partner[side.buffers[i].allocate] == kNone) {
      keys.push_back(side.keys[side.buffers[i].allocate]);
      buffers.push_back(i);
    }
  }
}

/// Partners of buffers, in order or moved. Returns how many were moved.
std::int64_t pair_buffers(Side& a, Side& b) {
  a.buffer_partner.assign(a.buffers.size(), kNone);
  b.buffer_partner.assign(b.buffers.size(), kNone);
  for (std::uint32_t i = 0; i < a.buffers.size(); ++i) {
    const std::uint32_t other = a.partner[a.buffers[i].allocate];
    if (other != kNone) {
      a.buffer_partner[i] = b.buffer_of[other];
      b.buffer_partner[b.buffer_of[other]] = i;
    }
  }
  std::vector<std::uint64_t> keys_a;
  std::vector<std::uint64_t> keys_b;
  std::vector<std::uint32_t> buffers_a;
  std::vector<std::uint32_t> buffers_b;
  left_over(a, keys_a, buffers_a);
  left_over(b, keys_b, buffers_b);
  const std::vector<AlignedPair> pairs = align(keys_a, keys_b);
  for (const AlignedPair& pair : pairs) {
    a.buffer_partner[buffers_a[pair.a]] = buffers_b[pair.b];
    b.buffer_partner[buffers_b[pair.b]] = buffers_a[pair.a];
  }
  return static_cast<std::int64_t>(pairs.size());
}

void pair_up(Side& a, Side& b) {
  for (const AlignedPair& pair : align(a.keys, b.keys)) {
    a.partner[pair.a] = pair.b;
    b.partner[pair.b] = pair.a;
  }
  // Frees are a pair only when their buffers are.
  for (std::uint32_t key = 0; key < a.keys.size(); ++key) {
    const std::uint32_t other = a.partner[key];
    const std::uint32_t mine = a.buffer_of[key];
    if (other == kNone || mine == kNone || a.buffers[mine].free != key) {
      continue;
    }
    const std::uint32_t theirs = b.buffer_of[other];
    if (theirs == kNone || a.partner[a.buffers[mine].allocate] != b.buffers[theirs].allocate) {
      a.partner[key] = kNone;
      b.partner[other] = kNone;
    }
  }
}

}  // namespace

TraceDiff diff_of(const Trace& trace_a, const Trace& trace_b) {
  Side a = SideBuilder{trace_a}.run();
  Side b = SideBuilder{trace_b}.run();
  pair_up(a, b);
  TraceDiff out;
  out.ops_a = static_cast<std::int64_t>(a.keys.size());
  out.ops_b = static_cast<std::int64_t>(b.keys.size());
  out.peak_a = a.peak;
  out.peak_b = b.peak;

  const auto phase = [&](const Side& side, std::uint32_t key) -> PhaseCount& {
    const std::string& name = side.phases[side.phase_of[key]];
    const auto known = std::find_if(out.phases.begin(), out.phases.end(),
                                    [&](const PhaseCount& count) { return count.phase == name; });
    if (known != out.phases.end()) {
      return *known;
    }
    out.phases.push_back({name});
    return out.phases.back();
  };
  std::uint32_t at_b = 0;
  for (std::uint32_t at_a = 0; at_a <= a.keys.size(); ++at_a) {
    const bool end = at_a == a.keys.size();
    if (!end && a.partner[at_a] == kNone) {
      continue;
    }
    // [from, at_a) and [at_b, until) lie between two pairs.
    const std::uint32_t until = end ? static_cast<std::uint32_t>(b.keys.size()) : a.partner[at_a];
    std::uint32_t from = at_a;
    while (from > 0 && a.partner[from - 1] == kNone) {
      --from;
    }
    if (from < at_a || at_b < until) {
      const auto place = [](const Side& side, const Trace& trace, std::uint32_t key) {
        return key < side.op_of.size() ? side.op_of[key] : trace.ops.size();
      };
      const auto past = [](const Side& side, std::uint32_t begin, std::uint32_t stop,
                           std::size_t first) {
        return stop > begin ? side.op_of[stop - 1] + 1 : first;
      };
      DiffHunk hunk;
      hunk.a_begin = place(a, trace_a, from);
      hunk.a_end = past(a, from, at_a, hunk.a_begin);
      hunk.b_begin = place(b, trace_b, at_b);
      hunk.b_end = past(b, at_b, until, hunk.b_begin);
      hunk.only_a = at_a - from;
      hunk.only_b = until - at_b;
      out.hunks.push_back(hunk);
    }
    for (std::uint32_t i = from; i < at_a; ++i) {
      ++phase(a, i).only_a;
    }
    for (std::uint32_t i = at_b; i < until; ++i) {
      ++phase(b, i).only_b;
    }
    if (!end) {
      ++out.matched;
      ++phase(a, at_a).matched;
      at_b = until + 1;
    }
  }

  out.moved = pair_buffers(a, b);
  const auto partner_live = [](const Side& mine, const Side& theirs, std::uint32_t buffer) {
    return theirs.live_at_peak[mine.buffer_partner[buffer]];
  };
  const auto paired = [](const Side& side, std::uint32_t buffer) {
    return side.buffer_partner[buffer] != kNone;
  };
  out.unmatched_a = share_of(trace_a, a, [&](std::uint32_t i) { return !paired(a, i); });
  out.unmatched_b = share_of(trace_b, b, [&](std::uint32_t i) { return !paired(b, i); });
  out.longer_a =
      share_of(trace_a, a, [&](std::uint32_t i) { return paired(a, i) && !partner_live(a, b, i); });
  out.longer_b =
      share_of(trace_b, b, [&](std::uint32_t i) { return paired(b, i) && !partner_live(b, a, i); });
  return out;
}

}  // namespace peakcast
