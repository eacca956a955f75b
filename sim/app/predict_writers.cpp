#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/breakdown.hpp"
#include "sim/app/predict_answer.hpp"
#include "sim/app/statistics_json.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {
namespace {

const BatchShape& shape_of(const RunSpec& spec, std::size_t iteration) {
  return spec.shapes[iteration % spec.shapes.size()];
}

Json split_json(const TimeSplit& split) {
  return {{"compute_ns", split.compute.count()},
          {"exposed_communication_ns", split.communication.count()},
          {"allocator_ns", split.allocator.count()},
          {"host_ns", split.host.count()},
          {"bound_by", bound_by(split)}};
}

Json cost_json(const Cost& cost) {
  return {{"peak_reserved_bytes", cost.peak_reserved.count()},
          {"peak_device_bytes", cost.peak_device.count()},
          {"spare_bytes", cost.spare.count()},
          {"step_ns", cost.step.count()}};
}

void add_advice(const Advice& advice, Json& json) {
  json["unbounded_reserved_bytes"] =
      advice.unbounded ? Json(advice.unbounded->peak_reserved.count()) : Json(nullptr);
  json["unbounded_step_ns"] =
      advice.unbounded ? Json(advice.unbounded->step.count()) : Json(nullptr);
  json["remedies"] = Json::array();
  for (const Remedy& remedy : advice.remedies) {
    Json row = {{"flags", remedy.flags},
                {"verdict", to_string(remedy.verdict)},
                {"fits", remedy.verdict != Verdict::out_of_memory},
                {"hardware", remedy.hardware}};
    row.update(cost_json(remedy.cost));
    json["remedies"].push_back(std::move(row));
  }
  json["remedies_complete"] = advice.complete;
}

Json outside_json(const Prediction& prediction) {
  Json items = Json::array();
  for (const OutsideItem& item : prediction.outside) {
    items.push_back({{"item", item.item},
                     {"bytes", item.size.count()},
                     {"measured", item.measured},
                     {"source", item.source}});
  }
  return {{"total_bytes", prediction.outside_sum.count()}, {"items", std::move(items)}};
}

Json iterations_json(const PredictAnswer& answer) {
  Json json = Json::array();
  for (std::size_t i = 0; i < answer.finished_iterations(); ++i) {
    const IterationReport& iteration = answer.prediction.report.iterations[i];
    const BatchShape& shape = shape_of(answer.run.spec, i);
    json.push_back({{"batch", shape.batch},
                    {"seq", shape.seq},
                    {"peak_allocated_bytes", iteration.peak_allocated.count()},
                    {"peak_reserved_bytes", iteration.peak_reserved.count()},
                    {"allocated_bytes", iteration.allocated.count()},
                    {"reserved_bytes", iteration.reserved.count()},
                    {"duration_ns", iteration.duration.count()},
                    {"split", split_json(iteration.split)}});
  }
  return json;
}

Json evidence_json(const PredictAnswer& answer) {
  const Evidence& evidence = answer.evidence;
  Json unmeasured = Json::array();
  for (const OutsideItem& item : answer.prediction.outside) {
    if (!item.measured) {
      unmeasured.push_back(item.item);
    }
  }
  return {{"recordings", evidence.recordings},
          {"exact", evidence.exact},
          {"worst_reserved_error_ppm", evidence.worst_ppm},
          {"no_recording", evidence.unlike},
          {"unmeasured_on_this_card", std::move(unmeasured)}};
}

void write_json(const PredictAnswer& answer, Json& json) {
  const Run& run = answer.run;
  const ReplayReport& report = answer.prediction.report;
  const Statistics& statistics = report.statistics;
  json["engine"] = "native";
  json["verdict"] = to_string(answer.verdict);
  json["headroom"] = headroom_json(answer.headroom);
  json["evidence"] = evidence_json(answer);
  json["peak"] = {{"requested_bytes", statistics.requested.peak},
                  {"allocated_bytes", statistics.allocated.peak},
                  {"active_bytes", statistics.active.peak},
                  {"reserved_bytes", statistics.reserved.peak},
                  {"device_bytes", answer.prediction.peak_device().count()}};
  json["peak_breakdown"] = breakdown_json(report);
  json["outside"] = outside_json(answer.prediction);
  json["iterations"] = iterations_json(answer);
  json["oom"] = oom_json(answer.oom);
  json["counts"] = counts_json(statistics);
  json["model"] = {{"family", run.model.family->name},
                   {"task", to_string(run.model.task)},
                   {"parameters", parameter_count(run.model)}};
  json["gpu"] = {{"name", run.gpu.name},
                 {"card", run.gpu.spec.name},
                 {"total_bytes", run.gpu.spec.total.count()}};
  if (answer.host) {
    json["host"] = host_json(*answer.host);
  }
  if (answer.advice) {
    add_advice(*answer.advice, json);
  }
}

std::string percent_of(Bytes part, Bytes whole) {
  return fmt::format(
      "{:.1f} %", 100.0 * static_cast<double>(part.count()) / static_cast<double>(whole.count()));
}

std::string verdict_text(const PredictAnswer& answer) {
  const Run& run = answer.run;
  if (answer.oom) {
    const std::string note = oom_note(answer.oom, run.spec);
    return folded(fmt::format("OUT OF MEMORY {}\n{}\n{}", oom_place(*answer.oom),
                              answer.oom->message, note.empty() ? "" : note + "\n"));
  }
  std::string text = fmt::format(
      "{}: {} of {} at the most, {} to spare ({})\n", in_capitals(answer.verdict),
      size_text(answer.prediction.peak_device()), size_text(run.gpu.spec.total),
      size_text(answer.headroom.spare), percent_of(answer.headroom.spare, run.gpu.spec.total));
  for (const std::string& reason : reasons(answer.headroom)) {
    text += folded("  " + reason + "\n", "  ");
  }
  return text;
}

/// How sure: what the recordings say of runs like this one.
std::string evidence_text(const Evidence& evidence) {
  constexpr double kPpmOfPercent = 1e4;
  std::string text =
      evidence.recordings == 0
          ? std::string{"no recorded run is like this one"}
          : fmt::format("{} recorded runs are like this one, {} predicted to the byte",
                        evidence.recordings, evidence.exact);
  if (evidence.recordings == 0 || evidence.exact < evidence.recordings) {
    text += fmt::format("; the worst{} {:.1f} % off", evidence.recordings == 0 ? " of all was" : "",
                        static_cast<double>(evidence.worst_ppm) / kPpmOfPercent);
  }
  for (const std::string& what : evidence.unlike) {
    text += fmt::format("{} {}", what == evidence.unlike.front() ? "; none" : ",", what);
  }
  return folded("how sure: " + text + "\n");
}

std::string breakdown_text(const Prediction& prediction) {
  const ReplayReport& report = prediction.report;
  const Bytes allocated{report.statistics.allocated.peak};
  const Bytes reserved{report.statistics.reserved.peak};
  Table table{{{"at the peak", Table::Align::left}, {"size"}, {"share"}}};
  for (const Part& part : kParts) {
    const Bytes bytes = part_of(report, part.category);
    if (bytes > Bytes{}) {
      table.add_row({std::string{part.name}, size_text(bytes), percent_of(bytes, allocated)});
    }
  }
  table.add_row({"= allocated", size_text(allocated), ""});
  table.add_row({"+ reserved beyond it", size_text(reserved - allocated), ""});
  for (const OutsideItem& item : prediction.outside) {
    table.add_row({"+ " + item.item + (item.measured ? "" : " (not measured on this card)"),
                   size_text(item.size), ""});
  }
  table.add_row({"= on the card", size_text(prediction.peak_device()), ""});
  return table.text();
}

std::string ms_text(SimDuration time) {
  constexpr double kMillisecond = 1e6;
  return fmt::format("{:.1f} ms", static_cast<double>(time.count()) / kMillisecond);
}

/// One row an iteration that ended; `in_bytes`, for programs, with how it ended.
Table iterations_table(const PredictAnswer& answer, bool in_bytes) {
  const auto size = [&](Bytes bytes) {
    return in_bytes ? std::to_string(bytes.count()) : size_text(bytes);
  };
  std::vector<Table::Column> columns{{"iteration"},
                                     {"batch"},
                                     {"seq"},
                                     {in_bytes ? "peak_allocated_bytes" : "peak allocated"},
                                     {in_bytes ? "peak_reserved_bytes" : "peak reserved"},
                                     {in_bytes ? "duration_ns" : "time"},
                                     {in_bytes ? "bound_by" : "bound by", Table::Align::left}};
  if (in_bytes) {
    columns.push_back({"outcome", Table::Align::left});
  }
  Table table{std::move(columns)};
  for (std::size_t i = 0; i < answer.finished_iterations(); ++i) {
    const IterationReport& iteration = answer.prediction.report.iterations[i];
    const BatchShape& shape = shape_of(answer.run.spec, i);
    std::vector<std::string> cells{
        std::to_string(i),
        std::to_string(shape.batch),
        std::to_string(shape.seq),
        size(iteration.peak_allocated),
        size(iteration.peak_reserved),
        in_bytes ? std::to_string(iteration.duration.count()) : ms_text(iteration.duration),
        std::string{bound_by(iteration.split)}};
    if (in_bytes) {
      cells.emplace_back("finished");
    }
    table.add_row(std::move(cells));
  }
  return table;
}

/// Flags one below the other, so that the table stays narrow.
std::vector<std::string> one_a_line(const std::string& flags) {
  std::vector<std::string> lines;
  for (std::size_t from = 0; from < flags.size();) {
    const std::size_t next = std::min(flags.find(" --", from + 1), flags.size());
    lines.push_back(flags.substr(from, next - from));
    from = next + 1;
  }
  return lines;
}

/// A run that ends within an iteration, or before the first, has that as its last row: a table of
/// nothing would say nothing.
std::string csv_of(const PredictAnswer& answer) {
  Table table = iterations_table(answer, true);
  if (answer.oom) {
    const Statistics& statistics = answer.prediction.report.statistics;
    const bool begun = answer.oom->at.iteration >= 0;
    const BatchShape& shape = shape_of(answer.run.spec, answer.finished_iterations());
    table.add_row({begun ? std::to_string(answer.oom->at.iteration) : "",
                   std::to_string(shape.batch), std::to_string(shape.seq),
                   std::to_string(statistics.allocated.peak),
                   std::to_string(statistics.reserved.peak), "", "", "out_of_memory"});
  }
  return table.csv();
}

std::string text_of(const PredictAnswer& answer) {
  std::string text =
      run_text(answer.run) + "\n" + verdict_text(answer) + "\n" + breakdown_text(answer.prediction);
  if (answer.finished_iterations() > 0) {
    text += "\n" + iterations_table(answer, false).text();
  }
  text += "\n" + evidence_text(answer.evidence);
  return text + (answer.host ? host_text(*answer.host) : "");
}

}  // namespace

std::string advice_text(const Advice& advice) {
  Table table{{{"step"},
               {"on the card"},
               {"to spare"},
               {"verdict", Table::Align::left},
               {"change", Table::Align::left}}};
  if (advice.unbounded) {
    table.add_row({ms_text(advice.unbounded->step), size_text(advice.unbounded->peak_device), "",
                   "", "none, with room enough"});
  }
  for (const Remedy& remedy : advice.remedies) {
    std::vector<std::string> first{ms_text(remedy.cost.step), size_text(remedy.cost.peak_device),
                                   size_text(remedy.cost.spare),
                                   std::string{to_string(remedy.verdict)}};
    for (const std::string& line : one_a_line(remedy.flags)) {
      first.push_back(line);
      table.add_row(first);
      first.assign(4, "");
    }
  }
  std::string text = advice.remedies.empty() ? "\nNothing that was tried would help.\n"
                                             : "\nWhat would help, the fastest step first:\n";
  text += table.empty() ? "" : table.text();
  return text + fmt::format("{} runs were tried{}\n", advice.runs,
                            advice.complete ? "" : "; there was not room for all");
}

const Writers<PredictAnswer>& predict_writers() {
  static constexpr Writers<PredictAnswer> kWriters{
      .json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
