#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/predict_answer.hpp"
#include "sim/app/statistics_json.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {
namespace {

/// The rows of peak_breakdown, in the contract's order.
struct Part {
  std::string_view name;
  Category category;
};
constexpr std::array<Part, 8> kParts{{
    {"parameters", Category::parameter},
    {"gradients", Category::gradient},
    {"optimizer", Category::optimizer},
    {"activations", Category::activation},
    {"temporaries", Category::temporary},
    {"inputs", Category::input},
    {"workspaces", Category::workspace},
    {"communication", Category::communication},
}};

Bytes part_of(const ReplayReport& report, Category category) {
  Bytes bytes = report.at_peak[static_cast<std::size_t>(category)];
  if (category == Category::temporary) {  // what nobody claimed
    bytes += report.at_peak[static_cast<std::size_t>(Category::unknown)];
  }
  return bytes;
}

const BatchShape& shape_of(const RunSpec& spec, std::size_t iteration) {
  return spec.shapes[iteration % spec.shapes.size()];
}

/// What an iteration's time is bound by: the device, unless it idles for more than a quarter of it.
std::string_view bound_by(const TimeSplit& split) {
  const SimDuration idle = split.host + split.allocator;
  if (4 * idle > split.total()) {
    return split.allocator > split.host ? "allocator" : "host";
  }
  return split.communication > split.compute ? "communication" : "compute";
}

Json split_json(const TimeSplit& split) {
  return {{"compute_ns", split.compute.count()},
          {"exposed_communication_ns", split.communication.count()},
          {"allocator_ns", split.allocator.count()},
          {"host_ns", split.host.count()},
          {"bound_by", bound_by(split)}};
}

Json remedies_json(const std::vector<Remedy>& remedies) {
  Json json = Json::array();
  for (const Remedy& remedy : remedies) {
    json.push_back({{"flags", remedy.flags},
                    {"fits", remedy.fits},
                    {"unbounded_reserved_bytes", bytes_or_null(remedy.needs)}});
  }
  return json;
}

Json breakdown_json(const ReplayReport& report) {
  Json json = Json::object();
  for (const Part& part : kParts) {
    json[std::string{part.name} + "_bytes"] = part_of(report, part.category).count();
  }
  return json;
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

void write_json(const PredictAnswer& answer, Json& json) {
  const Run& run = answer.run;
  const ReplayReport& report = answer.prediction.report;
  const Statistics& statistics = report.statistics;
  json["engine"] = "native";
  json["verdict"] = answer.fits() ? "fits" : "out_of_memory";
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
  if (answer.advice) {
    json["unbounded_reserved_bytes"] = bytes_or_null(answer.advice->needs);
    json["remedies"] = remedies_json(answer.advice->remedies);
  }
}

std::string percent_of(Bytes part, Bytes whole) {
  return fmt::format(
      "{:.1f} %", 100.0 * static_cast<double>(part.count()) / static_cast<double>(whole.count()));
}

std::string verdict_text(const PredictAnswer& answer) {
  const Run& run = answer.run;
  if (answer.oom) {
    return fmt::format("OUT OF MEMORY {}\n{}\n", oom_place(*answer.oom), answer.oom->message);
  }
  const Prediction& prediction = answer.prediction;
  const Bytes device = prediction.peak_device();
  const Bytes room = run.limit
                         ? std::min(*run.limit - Bytes{prediction.report.statistics.reserved.peak},
                                    run.gpu.spec.total - device)
                         : run.gpu.spec.total - device;
  return fmt::format("FITS: {} of {} at the most, {} to spare ({})\n", size_text(device),
                     size_text(run.gpu.spec.total), size_text(room),
                     percent_of(room, run.gpu.spec.total));
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

Table iterations_table(const PredictAnswer& answer, bool in_bytes) {
  const auto size = [&](Bytes bytes) {
    return in_bytes ? std::to_string(bytes.count()) : size_text(bytes);
  };
  Table table{{{"iteration"},
               {"batch"},
               {"seq"},
               {in_bytes ? "peak_allocated_bytes" : "peak allocated"},
               {in_bytes ? "peak_reserved_bytes" : "peak reserved"},
               {in_bytes ? "duration_ns" : "time"},
               {in_bytes ? "bound_by" : "bound by", Table::Align::left}}};
  for (std::size_t i = 0; i < answer.finished_iterations(); ++i) {
    const IterationReport& iteration = answer.prediction.report.iterations[i];
    const BatchShape& shape = shape_of(answer.run.spec, i);
    constexpr double kMillisecond = 1e6;
    table.add_row(
        {std::to_string(i), std::to_string(shape.batch), std::to_string(shape.seq),
         size(iteration.peak_allocated), size(iteration.peak_reserved),
         in_bytes ? std::to_string(iteration.duration.count())
                  : fmt::format("{:.1f} ms",
                                static_cast<double>(iteration.duration.count()) / kMillisecond),
         std::string{bound_by(iteration.split)}});
  }
  return table;
}

std::string advice_text(const Advice& advice) {
  const std::optional<Bytes>& needs = advice.needs;
  const auto text_of = [](const std::optional<Bytes>& size) {
    return size ? size_text(*size) : std::string{"over 1 TiB"};
  };
  std::string text =
      fmt::format("\nWith room enough it would reserve {}. What would help:\n", text_of(needs));
  Table table{
      {{"change", Table::Align::left}, {"reserves"}, {"saves"}, {"verdict", Table::Align::left}}};
  for (const Remedy& remedy : advice.remedies) {
    table.add_row({remedy.flags, text_of(remedy.needs),
                   needs && remedy.needs ? size_text(*needs - *remedy.needs) : "?",
                   remedy.fits ? "fits" : "does not fit"});
  }
  return text + table.text();
}

std::string csv_of(const PredictAnswer& answer) { return iterations_table(answer, true).csv(); }

std::string text_of(const PredictAnswer& answer) {
  std::string text =
      run_text(answer.run) + "\n" + verdict_text(answer) + "\n" + breakdown_text(answer.prediction);
  if (answer.finished_iterations() > 0) {
    text += "\n" + iterations_table(answer, false).text();
  }
  return answer.advice ? text + advice_text(*answer.advice) : text;
}

}  // namespace

const Writers<PredictAnswer>& predict_writers() {
  static constexpr Writers<PredictAnswer> kWriters{
      .json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
