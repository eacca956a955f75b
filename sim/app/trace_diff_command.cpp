#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/trace_diff.hpp"
#include "sim/trace/trace_summary.hpp"

namespace peakcast::app {

namespace {

/// The size of the buffer that each op is about; 0 for other ops.
std::vector<std::int64_t> sizes_of(const Trace& trace) {
  std::vector<std::int64_t> live(trace.buffer_slots);
  std::vector<std::int64_t> sizes;
  sizes.reserve(trace.ops.size());
  for (const Op& op : trace.ops) {
    switch (op.kind) {
      case OpKind::allocate:
        live[op.id] = (op.flags & kAttempt) != 0 ? live[op.id] : op.value;
        sizes.push_back(op.value);
        break;
      case OpKind::free:
      case OpKind::record_stream:
      case OpKind::complete:
        sizes.push_back(live[op.id]);
        break;
      default:
        sizes.push_back(0);
        break;
    }
  }
  return sizes;
}

bool shown(const Op& op) {
  return op.kind == OpKind::allocate || op.kind == OpKind::free || op.kind == OpKind::empty_cache;
}

std::string phase_at(const Trace& trace, std::size_t op) {
  for (std::size_t i = std::min(op, trace.ops.size()); i-- > 0;) {
    if (trace.ops[i].kind == OpKind::mark && mark_kind_of(trace.ops[i]) != MarkKind::op) {
      return trace.strings[trace.ops[i].id];
    }
  }
  return "";
}

std::string label_at(const Trace& trace, std::size_t op) {
  return op < trace.labels.size() && trace.labels[op] != 0 ? trace.strings[trace.labels[op] - 1]
                                                           : "";
}

/// A trace with what its lines in a report need.
struct Shown {
  explicit Shown(const Trace& of) : trace{of}, sizes{sizes_of(of)} {}
  const Trace& trace;
  std::vector<std::int64_t> sizes;

  [[nodiscard]] Json json(std::size_t op) const {
    if (op >= trace.ops.size()) {
      return nullptr;
    }
    Json out;
    out["op"] = op;
    out["kind"] = to_string(trace.ops[op].kind);
    out["size_bytes"] = sizes[op];
    out["stream"] = trace.ops[op].stream;
    out["label"] = label_at(trace, op);
    out["phase"] = phase_at(trace, op);
    return out;
  }
  [[nodiscard]] std::string text(std::size_t op) const {
    const std::string label = label_at(trace, op);
    return fmt::format("{:>9}  {:<11} {:>14}  stream {}{}", op, to_string(trace.ops[op].kind),
                       count_text(sizes[op]), trace.ops[op].stream,
                       label.empty() ? "" : "  " + label.substr(0, 100));
  }
};

Json peak_json(const PeakPlace& peak) {
  Json out;
  out["allocated_bytes"] = peak.allocated.count();
  out["buffers"] = peak.buffers;
  out["op"] = peak.op;
  out["iteration"] = peak.iteration >= 0 ? Json(peak.iteration) : Json(nullptr);
  out["phase"] = peak.phase;
  return out;
}

Json share_json(const PeakShare& share, std::size_t most) {
  Json out;
  out["buffers"] = share.buffers;
  out["allocated_bytes"] = share.allocated.count();
  out["groups"] = Json::array();
  for (std::size_t i = 0; i < std::min(most, share.groups.size()); ++i) {
    const BufferGroup& group = share.groups[i];
    out["groups"].push_back({{"requested_bytes", group.size.count()},
                             {"count", group.count},
                             {"label", group.label},
                             {"phase", group.phase}});
  }
  return out;
}

std::string share_text(std::string_view what, const PeakShare& share, std::size_t most) {
  std::string text =
      fmt::format("{}: {} buffers, {}\n", what, share.buffers, size_text(share.allocated));
  for (std::size_t i = 0; i < std::min(most, share.groups.size()); ++i) {
    const BufferGroup& group = share.groups[i];
    text += fmt::format("  {:>6} x {:>14}{}{}\n", group.count, count_text(group.size.count()),
                        group.phase.empty() ? "" : "  " + group.phase,
                        group.label.empty() ? "" : "  " + group.label.substr(0, 100));
  }
  return text;
}

std::string hunk_text(const DiffHunk& hunk, const Shown& a, const Shown& b, std::size_t context) {
  std::string text = fmt::format("@@ A {}..{} ({}), B {}..{} ({})\n", hunk.a_begin, hunk.a_end,
                                 hunk.only_a, hunk.b_begin, hunk.b_end, hunk.only_b);
  constexpr std::size_t kMostLines = 12;
  const auto side = [&](const Shown& of, std::size_t begin, std::size_t end, char sign) {
    std::size_t lines = 0;
    for (std::size_t op = begin; op < end; ++op) {
      if (shown(of.trace.ops[op])) {
        if (++lines > kMostLines) {
          text += fmt::format("{}        ...\n", sign);
          break;
        }
        text += fmt::format("{}{}\n", sign, of.text(op));
      }
    }
  };
  std::vector<std::size_t> before;
  for (std::size_t op = hunk.a_begin; op-- > 0 && before.size() < context;) {
    if (shown(a.trace.ops[op])) {
      before.push_back(op);
    }
  }
  std::reverse(before.begin(), before.end());
  for (const std::size_t op : before) {
    text += fmt::format(" {}\n", a.text(op));
  }
  side(a, hunk.a_begin, hunk.a_end, '-');
  side(b, hunk.b_begin, hunk.b_end, '+');
  return text;
}

}  // namespace

int run_trace_diff(std::span<const std::string> words) {
  std::string path_a;
  std::string path_b;
  std::int64_t most = 5;
  std::int64_t context = 3;
  bool by_phase = false;
  CommandLine line{{"trace diff",
                    "Align two traces: where they part, and what it costs at the peak (exits 1 "
                    "when they differ)",
                    "trace diff recorded.csv.zst generated.pkt"}};
  line.positional("A", path_a, "a trace, of any known format");
  line.positional("B", path_b, "another");
  line.number("most", most, "differences and groups of buffers that are listed");
  line.number("context", context, "ops shown before a difference");
  line.flag("by-phase", by_phase, "count by phase (the traces' marks)");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  const LoadedTrace loaded_a = load_trace(path_a);
  const LoadedTrace loaded_b = load_trace(path_b);
  const TraceDiff diff = diff_of(loaded_a.trace, loaded_b.trace);
  const Shown a{loaded_a.trace};
  const Shown b{loaded_b.trace};
  const int status = diff.hunks.empty() ? kFits : kDoesNotFit;
  const auto listed = std::min(static_cast<std::size_t>(most), diff.hunks.size());
  Table phases{{{"phase", Table::Align::left}, {"matched"}, {"only A"}, {"only B"}}};
  for (const PhaseCount& count : diff.phases) {
    phases.add_row({count.phase.empty() ? "-" : count.phase, std::to_string(count.matched),
                    std::to_string(count.only_a), std::to_string(count.only_b)});
  }
  const std::int64_t cost = diff.peak_a.allocated.count() - diff.peak_b.allocated.count();
  switch (line.console().format) {
    case Format::csv:
      write_stdout(phases.csv());
      return status;
    case Format::json: {
      Json out = report_head("trace diff", line.echo());
      out["identical"] = diff.hunks.empty();
      out["ops_a"] = diff.ops_a;
      out["ops_b"] = diff.ops_b;
      out["matched"] = diff.matched;
      out["moved"] = diff.moved;
      out["only_a"] = diff.ops_a - diff.matched;
      out["only_b"] = diff.ops_b - diff.matched;
      out["first_difference"] = nullptr;
      if (!diff.hunks.empty()) {
        const DiffHunk& first = diff.hunks.front();
        out["first_difference"] = {{"a", a.json(first.a_begin)}, {"b", b.json(first.b_begin)}};
      }
      out["differences"] = diff.hunks.size();
      out["hunks"] = Json::array();
      for (std::size_t i = 0; i < listed; ++i) {
        const DiffHunk& hunk = diff.hunks[i];
        out["hunks"].push_back({{"a_begin", hunk.a_begin},
                                {"a_end", hunk.a_end},
                                {"b_begin", hunk.b_begin},
                                {"b_end", hunk.b_end},
                                {"only_a", hunk.only_a},
                                {"only_b", hunk.only_b}});
      }
      out["peak_a"] = peak_json(diff.peak_a);
      out["peak_b"] = peak_json(diff.peak_b);
      out["peak_difference_bytes"] = cost;
      const auto groups = static_cast<std::size_t>(most);
      out["at_peak"] = {{"only_in_a", share_json(diff.unmatched_a, groups)},
                        {"only_in_b", share_json(diff.unmatched_b, groups)},
                        {"live_longer_in_a", share_json(diff.longer_a, groups)},
                        {"live_longer_in_b", share_json(diff.longer_b, groups)}};
      if (by_phase) {
        out["phases"] = Json::array();
        for (const PhaseCount& count : diff.phases) {
          out["phases"].push_back({{"phase", count.phase},
                                   {"matched", count.matched},
                                   {"only_a", count.only_a},
                                   {"only_b", count.only_b}});
        }
      }
      write_stdout(json_text(out));
      return status;
    }
    case Format::text:
      break;
  }
  std::string text = fmt::format(
      "{} ops of A ({}) and {} of B ({}): {} matched, {} only in A, {} only in B\n",
      count_text(diff.ops_a), path_a, count_text(diff.ops_b), path_b, count_text(diff.matched),
      count_text(diff.ops_a - diff.matched), count_text(diff.ops_b - diff.matched));
  if (diff.moved > 0) {
    text += fmt::format("of these, {} allocations are in both, at other places\n",
                        count_text(diff.moved));
  }
  if (diff.hunks.empty()) {
    text += "the programs are the same\n";
  }
  for (std::size_t i = 0; i < listed; ++i) {
    const std::string phase = phase_at(a.trace, diff.hunks[i].a_begin);
    text += fmt::format("\n{}{}\n", i == 0 ? "they first part" : "then",
                        phase.empty() ? "" : " in " + phase);
    text += hunk_text(diff.hunks[i], a, b, static_cast<std::size_t>(context));
  }
  if (listed < diff.hunks.size()) {
    text += fmt::format("\n... and {} more differences\n", diff.hunks.size() - listed);
  }
  const auto peak_text = [](std::string_view name, const PeakPlace& peak) {
    return fmt::format("peak of {}: {} in {} buffers, at op {}{}{}\n", name,
                       size_text(peak.allocated), peak.buffers, peak.op,
                       peak.iteration >= 0 ? fmt::format(", iteration {}", peak.iteration) : "",
                       peak.phase.empty() ? "" : ", " + peak.phase);
  };
  text += "\n" + peak_text("A", diff.peak_a) + peak_text("B", diff.peak_b);
  text += cost == 0 ? "the peaks are equal\n"
                    : fmt::format("A's peak is {} bytes {} than B's\n", count_text(std::abs(cost)),
                                  cost < 0 ? "lower" : "higher");
  const auto groups = static_cast<std::size_t>(most);
  const auto add_share = [&](std::string_view what, const PeakShare& share) {
    text += share.buffers > 0 ? share_text(what, share, groups) : "";
  };
  add_share("live at A's peak, without a partner in B", diff.unmatched_a);
  add_share("live at B's peak, without a partner in A", diff.unmatched_b);
  add_share("live at A's peak, while the partner is not at B's", diff.longer_a);
  add_share("live at B's peak, while the partner is not at A's", diff.longer_b);
  if (by_phase) {
    text += "\n" + phases.text();
  }
  write_stdout(text);
  return status;
}

}  // namespace peakcast::app
