#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/validate.hpp"

namespace peakcast::app {

int run_trace_validate(std::span<const std::string> words) {
  std::string path;
  std::int64_t most = 20;
  std::optional<std::int64_t> device;
  CommandLine line{{"trace validate", "Check a trace: it can be read, replayed, and have happened",
                    "trace validate run.csv.zst"}};
  line.positional("TRACE", path, "the trace, of any known format; - is stdin");
  line.number("most", most, "findings that are listed", 1);
  std::optional<Bytes> max_memory;
  line.size("max-memory", max_memory,
            "what reading the trace may take; 256 MiB and 4 KiB a byte of it unless given");
  line.number("device", device, "whose entries, of a snapshot with several devices");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  const LoadedTrace loaded = load_trace(path, {.max_memory = max_memory, .device = device});
  // Readers give back valid traces; what is left to find is odd, not impossible.
  for (const std::string& note : loaded.notes) {
    line.console().note(note);
  }
  std::vector<Finding> odd = findings(loaded.trace, static_cast<std::size_t>(most));
  const std::size_t events = loaded.trace.recording ? loaded.trace.recording->events.size() : 0;
  if (const auto bad = first_fault(loaded.trace)) {
    odd.insert(odd.begin(), {events, fmt::format("op {}: {}", bad->op, bad->why)});
  }
  const bool exact = loaded.trace.recording && !loaded.trace.recording->head_lost;
  switch (line.console().format) {
    case Format::json: {
      Json out = report_head("trace validate", line.echo());
      out["format"] = to_string(loaded.format);
      out["valid"] = odd.empty();
      out["exact_replay"] = exact;
      out["findings"] = Json::array();
      for (const Finding& finding : odd) {
        out["findings"].push_back(
            {{"event", finding.event < events ? Json(finding.event) : Json(nullptr)},
             {"what", finding.what}});
      }
      write_stdout(json_text(out));
      break;
    }
    case Format::csv: {
      Table table{{{"event"}, {"what", Table::Align::left}}};
      for (const Finding& finding : odd) {
        table.add_row({std::to_string(finding.event), finding.what});
      }
      write_stdout(table.csv());
      break;
    }
    case Format::text: {
      std::string text;
      for (const Finding& finding : odd) {
        text += finding.event < events ? fmt::format("entry {}: {}\n", finding.event, finding.what)
                                       : finding.what + "\n";
      }
      text += odd.empty()
                  ? fmt::format("{}: valid {} trace, {} ops\n", path, to_string(loaded.format),
                                loaded.trace.ops.size())
                  : fmt::format("{}: {} finding{}\n", path, odd.size(), odd.size() == 1 ? "" : "s");
      if (loaded.trace.recording && !exact) {
        text += "the recording began after the program: a replay begins where it did\n";
      }
      write_stdout(text);
      break;
    }
  }
  return odd.empty() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
