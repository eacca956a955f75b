#include "sim/app/drawn_run.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/report/run_timeline.hpp"
#include "sim/trace/byte_source.hpp"

namespace peakcast::app {
namespace {

/// Entries of a recording as blocks and segments with the span in which they live.
class Spans {
 public:
  Spans(const Trace& program, const RunLog& log, const RecordedRun& run)
      : program_{program}, log_{log}, run_{run}, recording_{*run.trace.recording} {}

  PageRun take() {
    out_.times_us = recording_.times_us;
    out_.labels = run_.trace.strings;
    for (std::size_t i = 0; i < recording_.events.size(); ++i) {
      step(recording_.events[i], static_cast<std::uint32_t>(i));
    }
    const auto end = static_cast<std::uint32_t>(recording_.events.size());
    for (const auto& [address, index] : live_) {
      PageRun::Block& block = out_.blocks[index];
      block.end = end;
      block.dropped = std::min(block.dropped, end);
    }
    for (const auto& [address, index] : held_) {
      out_.segments[index].end = end;
    }
    put_levels();
    put_marks();
    const auto [first, last] = std::minmax_element(out_.times_us.begin(), out_.times_us.end());
    out_.timed = first != last && *first < *last;
    return std::move(out_);
  }

 private:
  void step(const AllocatorEvent& event, std::uint32_t entry) {
    switch (event.action) {
      case Action::segment_alloc:
      case Action::segment_map:
        gain(event.address, event.size, event.stream.value, entry);
        break;
      case Action::segment_free:
      case Action::segment_unmap:
        lose(event, entry);
        break;
      case Action::alloc:
        hand_out(event, entry);
        break;
      case Action::free_requested:
        if (const auto live = live_.find(event.address); live != live_.end()) {
          out_.blocks[live->second].dropped = entry;
        }
        break;
      case Action::free_completed:
        if (const auto live = live_.find(event.address); live != live_.end()) {
          PageRun::Block& block = out_.blocks[live->second];
          block.end = entry;
          block.dropped = std::min(block.dropped, entry);
          live_.erase(live);
        }
        break;
      case Action::oom:
        out_.ooms.push_back(entry);
        break;
      case Action::snapshot:
        break;
    }
  }

  void gain(Address address, Bytes size, std::uint32_t stream, std::uint32_t entry) {
    held_[address] = out_.segments.size();
    out_.segments.push_back(
        {.begin = entry, .end = entry, .address = address, .size = size, .stream = stream});
  }

  /// What goes may be a part of a segment: the rest goes on as segments of its own.
  void lose(const AllocatorEvent& event, std::uint32_t entry) {
    const Address end = event.address + event.size;
    auto held = held_.upper_bound(event.address);
    held = held == held_.begin() ? held : std::prev(held);
    while (held != held_.end() && held->first < end) {
      const std::size_t index = held->second;
      const PageRun::Segment old = out_.segments[index];
      const Address stop = old.address + old.size;
      if (stop <= event.address) {
        ++held;
        continue;
      }
      out_.segments[index].end = entry;
      held_.erase(held);
      if (old.address < event.address) {
        gain(old.address, event.address - old.address, old.stream, entry);
      }
      if (end < stop) {
        gain(end, stop - end, old.stream, entry);
      }
      held = held_.upper_bound(event.address);
    }
  }

  void hand_out(const AllocatorEvent& event, std::uint32_t entry) {
    const std::uint32_t source = run_.source[entry];
    const Op& op = program_.ops[log_.ops()[source]];
    const Bytes known = log_.block_sizes()[source];
    constexpr std::uint32_t kNever = 0xffffffff;
    live_[event.address] = out_.blocks.size();
    out_.blocks.push_back(
        {.begin = entry,
         .dropped = kNever,
         .end = kNever,
         .address = event.address,
         .size = std::max(known, event.size),
         .requested = event.size,
         .label = recording_.labels[entry],
         .category = op.kind == OpKind::allocate ? category_of(op) : Category::unknown,
         .stream = event.stream.value});
  }

  /// The books are known per entry of the log; `source` never goes back but for labels of moves.
  void put_levels() {
    std::uint32_t entry = 0;
    const auto count = static_cast<std::uint32_t>(recording_.events.size());
    for (const RunLog::Levels& level : log_.levels()) {
      while (entry < count && run_.source[entry] < level.entries) {
        ++entry;
      }
      out_.levels.push_back({entry, level.allocated, level.reserved});
    }
  }

  void put_marks() {
    std::size_t entry = 0;
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      while (entry < run_.source.size() && log_.ops()[run_.source[entry]] < i) {
        ++entry;
      }
      const Op& op = program_.ops[i];
      if (op.kind == OpKind::mark && mark_kind_of(op) != MarkKind::op &&
          entry < run_.source.size()) {
        out_.marks.push_back({static_cast<std::uint32_t>(entry),
                              mark_kind_of(op) == MarkKind::iteration, program_.strings[op.id]});
      }
    }
  }

  const Trace& program_;
  const RunLog& log_;
  const RecordedRun& run_;
  const Recording& recording_;
  PageRun out_{};
  std::map<Address, std::size_t> live_{};
  std::map<Address, std::size_t> held_{};
};

}  // namespace

PageRun drawn(const Trace& program, const RunLog& log, const RecordedRun& run) {
  return Spans{program, log, run}.take();
}

PageRun drawn_run(const Run& run, Time time) {
  const Program program = program_of(run, time);
  RunLog log{program};
  const Prediction prediction = predict(
      run, program, time, nullptr,
      [&log](Allocator& policy) -> Allocator& {
        log.follow(policy);
        return policy;
      },
      &log);
  PageRun drawn_one = drawn(program, log, recorded_run(program, log, run.alloc_conf));
  drawn_one.name = run.policy.text();
  drawn_one.limit = run.limit;
  drawn_one.capacity = run.gpu.spec.total;
  drawn_one.outside = prediction.outside_sum;
  return drawn_one;
}

PageRun drawn_replay(ReplayQuestion question) {
  question.keep_page = true;
  question.keep_events = false;
  question.verify = false;
  return answer(question).page;
}

PageRun drawn_replay(ReplayQuestion question, const Trace& trace) {
  question.keep_page = true;
  return answer(question, LoadedTrace{.trace = trace}).page;
}

std::vector<PageRun> drawn_ranks(const CaptureAnswer& result) {
  constexpr std::size_t kMostDrawn = 4;  // a rank more on a page costs as much again
  std::vector<PageRun> drawn;
  for (std::size_t i = 0; i < std::min(result.runs.size(), kMostDrawn); ++i) {
    ReplayQuestion question{.trace = fmt::format("rank {}", i)};
    question.capacity = result.gpu.spec.total;
    drawn.push_back(drawn_replay(question, result.runs[i].run.trace));
    drawn.back().name = question.trace;
    drawn.back().outside = result.outside_sum;
  }
  return drawn;
}

void DrawnFiles::declare_report(CommandLine& line) {
  line.text("report", "FILE", report,
            "write a page of HTML: the answer, memory over time, what lives at the peak and where");
}

void DrawnFiles::declare_timeline(CommandLine& line) {
  line.text("timeline", "FILE", timeline,
            "write streams and memory over time, for Perfetto or chrome://tracing");
}

void DrawnFiles::declare_force(CommandLine& line) {
  line.flag("force", overwrites, "overwrite FILE where it is there");
}

void DrawnFiles::write(const Json& answer, const std::vector<PageRun>& runs) const {
  if (!report.empty()) {
    const std::string title = "peakcast " + answer.at("command").get<std::string>();
    static_cast<void>(
        value_or_throw(write_file(report, report_page(title, answer, runs), overwrites)));
  }
  if (!timeline.empty()) {
    std::ostringstream text;
    write_run_timeline(text, runs);
    static_cast<void>(value_or_throw(write_file(timeline, text.view(), overwrites)));
  }
}

}  // namespace peakcast::app
