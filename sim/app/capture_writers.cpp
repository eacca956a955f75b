#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/breakdown.hpp"
#include "sim/app/capture_answer.hpp"
#include "sim/app/statistics_json.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

using capture::Assumption;

std::string percent_of(Bytes part, Bytes whole) {
  return fmt::format(
      "{:.1f} %", 100.0 * static_cast<double>(part.count()) / static_cast<double>(whole.count()));
}

std::string name_of(const CaptureRunAnswer& run) {
  return run.run.rank >= 0 ? fmt::format("rank {}", run.run.rank)
                           : fmt::format("process {}, card {}", run.run.process, run.run.card);
}

std::string verdict_text(const CaptureAnswer& answer, const CaptureRunAnswer& run) {
  const Bytes device = answer.peak_device(run);
  const Bytes total = answer.gpu.spec.total;
  if (run.oom) {
    const std::int64_t iteration = std::max<std::int64_t>(run.oom->at.iteration, 0);
    std::string where = fmt::format("in iteration {}", iteration);
    if (!run.oom->at.phase.empty()) {
      where += ", phase " + run.oom->at.phase;
    }
    if (!run.run.ran_out_at.empty()) {
      where += ", at " + run.run.ran_out_at;
    }
    return fmt::format("OUT OF MEMORY {}\n{}\n", where, run.oom->message);
  }
  const Bytes room = answer.room(run);
  return fmt::format("FITS: {} of {} at the most, {} to spare ({})\n", size_text(device),
                     size_text(total), size_text(room), percent_of(room, total));
}

std::string peak_text(const CaptureAnswer& answer, const CaptureRunAnswer& run) {
  const Statistics& statistics = run.report.statistics;
  const Bytes allocated{statistics.allocated.peak};
  const Bytes reserved{statistics.reserved.peak};
  Table table{{{"at the peak", Table::Align::left}, {"size"}, {"share"}}};
  for (const Part& part : kParts) {
    const Bytes bytes = part_of(run.report, part.category);
    if (bytes > Bytes{}) {
      table.add_row({std::string{part.name}, size_text(bytes), percent_of(bytes, allocated)});
    }
  }
  table.add_row({"= allocated", size_text(allocated), ""});
  table.add_row({"+ reserved beyond it", size_text(reserved - allocated), ""});
  for (const OutsideItem& item : answer.outside) {
    table.add_row({"+ " + item.item + (item.measured ? "" : " (not measured on this card)"),
                   size_text(item.size), ""});
  }
  table.add_row({"= on the card", size_text(answer.peak_device(run)), ""});
  return table.text();
}

std::string iterations_text(const CaptureRunAnswer& run) {
  if (run.steps() == 0) {
    return "";
  }
  constexpr double kMillisecond = 1e6;
  Table table{{{"iteration"}, {"peak allocated"}, {"peak reserved"}, {"time"}}};
  // A long run's later iterations are like those before them: the last few tell.
  constexpr std::size_t kShown = 8;
  const std::size_t first = run.steps() > kShown ? run.steps() - kShown : 0;
  for (std::size_t i = first; i < run.steps(); ++i) {
    const IterationReport& iteration = run.report.iterations[i];
    const SimDuration time =
        i < run.timed.iterations.size() ? run.timed.iterations[i].duration : SimDuration{};
    table.add_row({std::to_string(i), size_text(iteration.peak_allocated),
                   size_text(iteration.peak_reserved),
                   fmt::format("{:.1f} ms", static_cast<double>(time.count()) / kMillisecond)});
  }
  return "\n" + table.text();
}

std::string reservations_text(const CaptureRunAnswer& run) {
  std::string text;
  if (!run.run.assumed.empty()) {
    std::int64_t count = 0;
    for (const Assumption& assumption : run.run.assumed) {
      count += assumption.count;
    }
    text += fmt::format("\n{} answers rest on values:\n", count);
    for (const Assumption& assumption : run.run.assumed) {
      text += fmt::format("  {} at {}, taken as {}{}\n", assumption.question, assumption.site,
                          assumption.answer,
                          assumption.count > 1 ? fmt::format(" ({} times)", assumption.count) : "");
    }
  }
  if (!run.run.stubs.empty()) {
    text += "\nCalled, but nothing stands in for them (they answered \"success\"):\n";
    for (const std::string& stub : run.run.stubs) {
      text += "  " + stub + "\n";
    }
  }
  if (run.matched != run.events) {
    text += fmt::format(
        "\nThe replay behind these figures parts from PyTorch: {} of {} events are the same\n",
        run.matched, run.events);
  }
  return text;
}

/// A row a rank, before what each is made of.
std::string ranks_text(const CaptureAnswer& answer) {
  Table table{{{"", Table::Align::left},
               {"verdict", Table::Align::left},
               {"peak allocated"},
               {"peak reserved"},
               {"on the card"}}};
  for (const CaptureRunAnswer& run : answer.runs) {
    table.add_row({name_of(run), run.oom ? "out of memory" : "fits",
                   size_text(Bytes{run.report.statistics.allocated.peak}),
                   size_text(Bytes{run.report.statistics.reserved.peak}),
                   size_text(answer.peak_device(run))});
  }
  return table.text() + fmt::format("the worst is {}\n\n", name_of(answer.worst()));
}

std::string write_text(const CaptureAnswer& answer) {
  std::string text = answer.runs.size() > 1 ? ranks_text(answer) : "";
  bool first = true;
  for (const CaptureRunAnswer& run : answer.runs) {
    if (answer.runs.size() > 1) {
      text += fmt::format("{}== {}\n", first ? "" : "\n", name_of(run));
      first = false;
    }
    text += verdict_text(answer, run) + "\n" + peak_text(answer, run) + iterations_text(run) +
            reservations_text(run);
  }
  return text;
}

std::string write_csv(const CaptureAnswer& answer) {
  Table table{{{"rank"},
               {"verdict"},
               {"peak_allocated_bytes"},
               {"peak_active_bytes"},
               {"peak_reserved_bytes"},
               {"peak_device_bytes"}}};
  for (const CaptureRunAnswer& run : answer.runs) {
    const Statistics& statistics = run.report.statistics;
    table.add_row({std::to_string(std::max<std::int64_t>(run.run.rank, 0)),
                   run.oom ? "out_of_memory" : "fits", std::to_string(statistics.allocated.peak),
                   std::to_string(statistics.active.peak), std::to_string(statistics.reserved.peak),
                   std::to_string(answer.peak_device(run).count())});
  }
  return table.csv();
}

Json assumed_json(const CaptureRunAnswer& run) {
  Json json = Json::array();
  for (const Assumption& assumption : run.run.assumed) {
    json.push_back({{"site", assumption.site},
                    {"question", assumption.question},
                    {"answer", assumption.answer},
                    {"count", assumption.count}});
  }
  return json;
}

Json iterations_json(const CaptureRunAnswer& run) {
  Json json = Json::array();
  for (std::size_t i = 0; i < run.steps(); ++i) {
    const IterationReport& iteration = run.report.iterations[i];
    json.push_back(
        {{"peak_allocated_bytes", iteration.peak_allocated.count()},
         {"peak_reserved_bytes", iteration.peak_reserved.count()},
         {"allocated_bytes", iteration.allocated.count()},
         {"reserved_bytes", iteration.reserved.count()},
         {"duration_ns",
          i < run.timed.iterations.size() ? run.timed.iterations[i].duration.count() : 0}});
  }
  return json;
}

Json run_json(const CaptureAnswer& answer, const CaptureRunAnswer& run) {
  const Statistics& statistics = run.report.statistics;
  Json json;
  json["rank"] = run.run.rank >= 0 ? Json(run.run.rank) : Json(nullptr);
  json["verdict"] = run.oom ? "out_of_memory" : "fits";
  json["peak"] = {{"requested_bytes", statistics.requested.peak},
                  {"allocated_bytes", statistics.allocated.peak},
                  {"active_bytes", statistics.active.peak},
                  {"reserved_bytes", statistics.reserved.peak},
                  {"device_bytes", answer.peak_device(run).count()}};
  json["peak_breakdown"] = breakdown_json(run.report);
  json["iterations"] = iterations_json(run);
  json["oom"] = oom_json(run.oom);
  if (run.oom) {
    json["oom"]["line"] = run.run.ran_out_at;
  }
  json["counts"] = counts_json(statistics);
  json["assumed"] = assumed_json(run);
  json["stubs"] = run.run.stubs;
  json["replayed"] = {{"events", run.events}, {"matched", run.matched}};
  return json;
}

void write_json(const CaptureAnswer& answer, Json& json) {
  json["inputs"]["program"] = answer.question.program;
  json["engine"] = "captured";
  json["program_status"] = answer.end.status;
  // The first rank's at the top, in predict's words; all ranks' in `runs`.
  json.update(run_json(answer, answer.runs.front()));
  json["verdict"] = answer.fits() ? "fits" : "out_of_memory";
  Json items = Json::array();
  for (const OutsideItem& item : answer.outside) {
    items.push_back({{"item", item.item},
                     {"bytes", item.size.count()},
                     {"measured", item.measured},
                     {"source", item.source}});
  }
  json["outside"] = {{"total_bytes", answer.outside_sum.count()}, {"items", std::move(items)}};
  json["runs"] = Json::array();
  for (const CaptureRunAnswer& run : answer.runs) {
    json["runs"].push_back(run_json(answer, run));
  }
  json["framework"] = answer.runs.front().run.trace.recording->framework;
  json["gpu"] = {{"name", answer.gpu.name},
                 {"card", answer.gpu.spec.name},
                 {"total_bytes", answer.gpu.spec.total.count()}};
}

constexpr Writers<CaptureAnswer> kWriters{.json = write_json, .csv = write_csv, .text = write_text};

}  // namespace

const Writers<CaptureAnswer>& capture_writers() { return kWriters; }

}  // namespace peakcast::app
