#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/recorded_start.hpp"
#include "sim/trace/trace_summary.hpp"

namespace peakcast::app {
namespace {

Json recording_json(const Recording& recording, const TraceSummary& summary) {
  Json out;
  out["framework"] = recording.framework;
  out["alloc_conf"] = recording.alloc_conf;
  out["limit_bytes"] = bytes_or_null(recording.limit);
  out["device_total_bytes"] = bytes_or_null(recording.device_total);
  out["head_lost"] = recording.head_lost;
  out["sizes_look_rounded"] = summary.sizes_look_rounded;
  for (int i = 0; i < kActionCount; ++i) {
    out["events"][to_string(static_cast<Action>(i))] =
        summary.events.at(static_cast<std::size_t>(i));
  }
  out["final"] = Json::object();
  for (const RecordedFigure& figure : recording.final_statistics) {
    out["final"][figure.name] = figure.value;
  }
  out["final_segments"] = recording.segments.size();
  out["final_heap"] = nullptr;
  if (const auto& heap = summary.final_heap) {
    out["final_heap"] = {{"allocated_bytes", heap->allocated.count()},
                         {"active_bytes", heap->active.count()},
                         {"reserved_bytes", heap->reserved.count()},
                         {"inactive_bytes", heap->inactive.count()},
                         {"inactive_split_bytes", heap->inactive_split.count()},
                         {"largest_free_bytes", heap->largest_free.count()}};
  }
  out["reserved_at_start_bytes"] = bytes_or_null(reserved_at_start(recording));
  return out;
}

Json json_of(const LoadedTrace& loaded, const TraceSummary& summary, Json inputs) {
  const Trace& trace = loaded.trace;
  Json out = report_head("trace info", std::move(inputs));
  out["format"] = to_string(loaded.format);
  out["sidecar"] = loaded.sidecar.empty() ? Json(nullptr) : Json(loaded.sidecar);
  out["ops"] = trace.ops.size();
  for (int i = 0; i < kOpKindCount; ++i) {
    out["ops_by_kind"][to_string(static_cast<OpKind>(i))] =
        summary.ops.at(static_cast<std::size_t>(i));
  }
  out["attempts"] = summary.attempts;
  out["preexisting"] = summary.preexisting;
  out["completed_at_sync"] = summary.at_sync;
  out["iterations"] = summary.iterations;
  out["streams"] = trace.streams;
  out["buffer_slots"] = trace.buffer_slots;
  out["labels"] = trace.strings.size();
  out["duration_ns"] = summary.duration_us * 1000;
  out["peak"] = {{"requested_bytes", summary.peak_live.count()},
                 {"buffers", summary.peak_buffers},
                 {"op", summary.peak_op}};
  out["end"] = {{"requested_bytes", summary.end_live.count()}, {"buffers", summary.end_buffers}};
  out["largest_bytes"] = summary.largest.count();
  out["total_bytes"] = summary.total.count();
  out["memory_bytes"] = memory_of(trace).count();
  out["notes"] = loaded.notes;
  out["recording"] = trace.recording ? recording_json(*trace.recording, summary) : Json(nullptr);
  return out;
}

std::string exact_replay(const Recording& recording) {
  if (!recording.head_lost) {
    return "possible";
  }
  const auto start = recorded_start(recording, default_block_size);
  return start
             ? "from where the recording began, after the program"
             : "no: the recording began after the program, and its segments do not tell with what";
}

Table table_of(const LoadedTrace& loaded, const TraceSummary& summary) {
  const Trace& trace = loaded.trace;
  Table table{{{"what", Table::Align::left}, {"value", Table::Align::left}}};
  table.add_row({"format", std::string{to_string(loaded.format)}});
  if (!loaded.sidecar.empty()) {
    table.add_row({"sidecar", loaded.sidecar});
  }
  table.add_row({"ops", count_text(static_cast<long long>(trace.ops.size()))});
  for (int i = 0; i < kOpKindCount; ++i) {
    const std::int64_t count = summary.ops.at(static_cast<std::size_t>(i));
    if (count > 0) {
      table.add_row({fmt::format("  {}", to_string(static_cast<OpKind>(i))), count_text(count)});
    }
  }
  const auto count = [&](const char* what, std::int64_t value) {
    if (value > 0) {
      table.add_row({what, count_text(value)});
    }
  };
  count("failed attempts", summary.attempts);
  count("preexisting", summary.preexisting);
  count("iterations", summary.iterations);
  count("streams", static_cast<std::int64_t>(trace.streams.size()));
  if (summary.duration_us > 0) {
    table.add_row({"duration", fmt::format("{}.{:03} ms", summary.duration_us / 1000,
                                           summary.duration_us % 1000)});
  }
  table.add_row(
      {"peak requested", fmt::format("{} in {} buffers, at op {}", size_text(summary.peak_live),
                                     summary.peak_buffers, summary.peak_op)});
  table.add_row({"live at the end", fmt::format("{} in {} buffers", size_text(summary.end_live),
                                                summary.end_buffers)});
  table.add_row({"largest buffer", size_text(summary.largest)});
  if (trace.recording) {
    const Recording& recording = *trace.recording;
    table.add_row(
        {"recorded entries", count_text(static_cast<long long>(recording.events.size()))});
    for (int i = 0; i < kActionCount; ++i) {
      const std::int64_t events = summary.events.at(static_cast<std::size_t>(i));
      if (events > 0) {
        table.add_row({fmt::format("  {}", to_string(static_cast<Action>(i))), count_text(events)});
      }
    }
    if (!recording.framework.empty()) {
      table.add_row({"recorded by", "PyTorch " + recording.framework});
    }
    table.add_row({"settings", recording.alloc_conf.empty() ? "defaults" : recording.alloc_conf});
    table.add_row({"limit", recording.limit ? size_text(*recording.limit) : "none"});
    if (summary.sizes_look_rounded) {
      table.add_row({"sizes", "all multiples of 512: an old recording, rounded already"});
    }
    if (const auto& heap = summary.final_heap) {
      table.add_row({"final snapshot", fmt::format("{} segments", recording.segments.size())});
      table.add_row({"  reserved", size_text(heap->reserved)});
      table.add_row({"  allocated", size_text(heap->allocated)});
      table.add_row({"  active", size_text(heap->active)});
      table.add_row({"  inactive", size_text(heap->inactive)});
      table.add_row({"  inactive split", size_text(heap->inactive_split)});
      table.add_row({"  largest free", size_text(heap->largest_free)});
    }
    if (const auto start = reserved_at_start(recording); start && recording.head_lost) {
      table.add_row({"reserved at the start", size_text(*start)});
    }
    table.add_row({"exact replay", exact_replay(recording)});
  }
  return table;
}

/// The JSON report as rows of `key,value`: a key in a key as "peak.requested_bytes", a list's items
/// by number.
void flatten(const Json& json, const std::string& key, Table& table) {
  if (json.is_structured()) {
    for (const auto& [name, value] : json.items()) {
      flatten(value, key.empty() ? name : key + "." + name, table);
    }
    return;
  }
  table.add_row({key, json.is_string() ? json.get<std::string>()
                      : json.is_null() ? ""
                                       : json.dump()});
}

std::string csv_of(Json json) {
  json.erase("inputs");
  Table table{{{"key", Table::Align::left}, {"value", Table::Align::left}}};
  flatten(json, "", table);
  return table.csv();
}

}  // namespace

int run_trace_info(std::span<const std::string> words) {
  std::string path;
  CommandLine line{{"trace info", "What a trace holds", "trace info run.csv.zst --format json"}};
  line.positional("TRACE", path, "the trace, of any known format; - is stdin");
  std::optional<std::int64_t> device;
  std::optional<Bytes> max_memory;
  line.size("max-memory", max_memory,
            "what reading the trace may take; 256 MiB and 4 KiB a byte of it unless given");
  line.number("device", device, "whose entries, of a snapshot with several devices");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  const LoadedTrace loaded = load_trace(path, {.max_memory = max_memory, .device = device});
  const TraceSummary summary = summary_of(loaded.trace);
  for (const std::string& note : loaded.notes) {
    line.console().note(note);
  }
  if (line.console().format == Format::text) {
    write_stdout(table_of(loaded, summary).text());
  } else {
    Json json = json_of(loaded, summary, line.echo());
    write_stdout(line.console().format == Format::csv ? csv_of(std::move(json)) : json_text(json));
  }
  return kFits;
}

}  // namespace peakcast::app
