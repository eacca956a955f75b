#include "sim/app/trace_output.hpp"

#include <array>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/run_snapshot.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/minimalloc_csv.hpp"
#include "sim/trace/native_format.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/recording_of.hpp"
#include "sim/trace/rmm_log.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/snapshot.hpp"
#include "sim/trace/trace_summary.hpp"

namespace peakcast::app {
namespace {

constexpr std::array<std::pair<std::string_view, std::optional<TraceFormat>>, 6> kTargets{
    {{"auto", std::nullopt},
     {"pkt", TraceFormat::native},
     {"csv", TraceFormat::recorded_csv},
     {"pickle", TraceFormat::snapshot_pickle},
     {"rmm", TraceFormat::rmm_log},
     {"minimalloc", TraceFormat::minimalloc_csv}}};

TraceFormat format_of(const std::string& path) {
  std::string_view name = path;
  for (const std::string_view packed : {".gz", ".zst"}) {
    if (name.ends_with(packed)) {
      name.remove_suffix(packed.size());
    }
  }
  if (name.ends_with(".pkt")) {
    return TraceFormat::native;
  }
  if (name.ends_with(".csv")) {
    return TraceFormat::recorded_csv;
  }
  if (name.ends_with(".pickle") || name.ends_with(".pkl")) {
    return TraceFormat::snapshot_pickle;
  }
  throw Fault{
      fmt::format("'{}' does not end in .pkt, .csv or .pickle: --to names the format", path)};
}

/// The pickle of `trace`. A program that was never recorded is run through PyTorch's allocator on
/// the usual card: a snapshot is an allocator's, with segments and addresses.
std::string pickle_of(const Trace& trace, const Console& console) {
  if (!trace.recording) {
    console.note("this program was never recorded: the snapshot is what PyTorch's allocator does");
    ReplayQuestion question{.trace = trace.source, .policy_given = true, .keep_run = true};
    question.addresses = Addresses::modelled;
    const ReplayAnswer found = answer(question, LoadedTrace{.trace = trace});
    return value_or_throw(snapshot_pickle(found.run.trace));
  }
  if (!trace.recording->segments.empty()) {
    return value_or_throw(snapshot_pickle(trace));
  }
  Trace made = trace;
  made.recording = run_snapshot(*trace.recording, {}).recording;
  return value_or_throw(snapshot_pickle(made));
}

/// What the target cannot hold, in words; "" when it holds all.
std::string lost(const Trace& trace, TraceFormat target) {
  if (target == TraceFormat::native) {
    return "";
  }
  const TraceSummary summary = summary_of(trace);
  std::string words;
  const auto add = [&](bool is_lost, std::string_view what) {
    if (is_lost) {
      words.append(words.empty() ? "" : ", ").append(what);
    }
  };
  const auto count = [&](OpKind kind) { return summary.ops.at(static_cast<std::size_t>(kind)); };
  const bool program_only = target == TraceFormat::rmm_log || target == TraceFormat::minimalloc_csv;
  add(count(OpKind::launch) + count(OpKind::collective) + count(OpKind::host_work) +
              count(OpKind::wait_event) + count(OpKind::synchronize) + count(OpKind::host_wait) >
          0,
      "device and host work");
  add(count(OpKind::host_allocate) + count(OpKind::driver_memory) + count(OpKind::local_memory) > 0,
      "host and driver memory");
  const bool made_here = target == TraceFormat::snapshot_pickle && !trace.recording;
  add(count(OpKind::mark) > 0 && !made_here && (program_only || trace.times_us.empty()), "marks");
  add(!trace.labels.empty() &&
          (program_only || (target == TraceFormat::recorded_csv && !trace.times_us.empty())),
      "labels");
  add(count(OpKind::record_stream) > 0 && (program_only || (!trace.recording && !made_here)),
      "holds by streams");
  add(trace.recording && program_only, "the allocator's own entries");
  add(target == TraceFormat::snapshot_pickle && trace.recording &&
          (trace.recording->limit || !trace.recording->final_statistics.empty()),
      "limit and final statistics");
  return words;
}

}  // namespace

TraceOutput::TraceOutput(CommandLine& line) : line_{line} {
  line.choice<std::optional<TraceFormat>>("to", kTargets, target_,
                                          "the format; auto goes by the file's name");
  line.flag("force", force_, "overwrite what is there");
}

void TraceOutput::write(const Trace& trace, const std::string& path) const {
  if (line_.console().format != Format::text) {
    throw Fault{"--format: the result is a file"};
  }
  write_beside_report(trace, path);
}

void TraceOutput::check_path(const std::string& path) const {
  if (!target_) {
    static_cast<void>(format_of(path));
  }
  static_cast<void>(value_or_throw(may_write(path, force_)));
}

void TraceOutput::write_beside_report(const Trace& trace, const std::string& path) const {
  const TraceFormat format = target_ ? *target_ : format_of(path);
  std::string bytes;
  switch (format) {
    case TraceFormat::native:
      bytes = native_bytes(trace);
      break;
    case TraceFormat::recorded_csv:
      bytes = recorded_csv(recording_of(trace), trace.streams, trace.strings);
      break;
    case TraceFormat::snapshot_pickle:
      bytes = pickle_of(trace, line_.console());
      break;
    case TraceFormat::rmm_log:
      bytes = rmm_log(trace);
      break;
    case TraceFormat::minimalloc_csv:
      bytes = minimalloc_csv(trace);
      break;
    case TraceFormat::snapshot_json:
      throw Fault{"a snapshot is written as a pickle"};
  }
  if (const std::string without = lost(trace, format); !without.empty()) {
    line_.console().note("not kept in this format: " + without);
  }
  const std::string packed = value_or_throw(compressed_for(path, std::move(bytes)));
  const std::string beside = format == TraceFormat::recorded_csv ? sidecar_path(path) : "";
  // A CSV without its sidecar, or beside another's, would be read as something else.
  const std::string json = beside.empty() ? "" : sidecar_json(trace);
  const std::array<FileToWrite, 2> files{{{path, packed}, {beside, json}}};
  static_cast<void>(
      value_or_throw(write_files(std::span{files}.first(beside.empty() ? 1 : 2), force_)));
  line_.console().detail(
      fmt::format("{}: {}", path, size_text(Bytes{static_cast<std::int64_t>(packed.size())})));
}

}  // namespace peakcast::app
