#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/remedies.hpp"
#include "sim/app/replay_json.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "sim/report/timeline.hpp"
#include "sim/trace/byte_source.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {

int run_predict(std::span<const std::string> words);

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

/// Iterations that ran to their end.
std::size_t finished_iterations(const ReplayReport& report) {
  return report.oom ? static_cast<std::size_t>(std::max<std::int64_t>(0, report.oom->iteration))
                    : report.iterations.size();
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

Json prediction_json(const Run& run, const Trace& trace, const Prediction& prediction,
                     Json inputs) {
  const ReplayReport& report = prediction.report;
  const Statistics& statistics = report.statistics;
  Json json = report_head("predict", std::move(inputs));
  json["verdict"] = report.oom ? "out_of_memory" : "fits";
  json["peak"] = {{"requested_bytes", statistics.requested.peak},
                  {"allocated_bytes", statistics.allocated.peak},
                  {"active_bytes", statistics.active.peak},
                  {"reserved_bytes", statistics.reserved.peak},
                  {"device_bytes", prediction.peak_device().count()}};
  Json breakdown = Json::object();
  for (const Part& part : kParts) {
    breakdown[std::string{part.name} + "_bytes"] = part_of(report, part.category).count();
  }
  json["peak_breakdown"] = std::move(breakdown);
  Json outside = Json::array();
  for (const OutsideItem& item : prediction.outside) {
    outside.push_back({{"item", item.item},
                       {"bytes", item.size.count()},
                       {"measured", item.measured},
                       {"source", item.source}});
  }
  json["outside"] = {{"total_bytes", prediction.outside_sum.count()},
                     {"items", std::move(outside)}};
  Json iterations = Json::array();
  for (std::size_t i = 0; i < finished_iterations(report); ++i) {
    const IterationReport& iteration = report.iterations[i];
    const BatchShape& shape = shape_of(run.spec, i);
    iterations.push_back({{"batch", shape.batch},
                          {"seq", shape.seq},
                          {"peak_allocated_bytes", iteration.peak_allocated.count()},
                          {"peak_reserved_bytes", iteration.peak_reserved.count()},
                          {"allocated_bytes", iteration.allocated.count()},
                          {"reserved_bytes", iteration.reserved.count()},
                          {"duration_ns", iteration.duration.count()},
                          {"split", split_json(iteration.split)}});
  }
  json["iterations"] = std::move(iterations);
  json["oom"] = oom_json(report, trace, run.gpu.spec, run.limit);
  json["counts"] = counts_json(statistics);
  json["model"] = {{"family", run.model.family->name},
                   {"task", to_string(run.model.task)},
                   {"parameters", parameter_count(run.model)}};
  json["gpu"] = {{"name", run.gpu.name},
                 {"card", run.gpu.spec.name},
                 {"total_bytes", run.gpu.spec.total.count()}};
  return json;
}

std::string percent_of(Bytes part, Bytes whole) {
  return fmt::format(
      "{:.1f} %", 100.0 * static_cast<double>(part.count()) / static_cast<double>(whole.count()));
}

std::string verdict_text(const Run& run, const Prediction& prediction) {
  const Bytes device = prediction.peak_device();
  if (!prediction.report.oom) {
    const Bytes room =
        run.limit ? std::min(*run.limit - Bytes{prediction.report.statistics.reserved.peak},
                             run.gpu.spec.total - device)
                  : run.gpu.spec.total - device;
    return fmt::format("FITS: {} of {} at the most, {} to spare ({})\n", size_text(device),
                       size_text(run.gpu.spec.total), size_text(room),
                       percent_of(room, run.gpu.spec.total));
  }
  const OomReport& oom = *prediction.report.oom;
  std::string where = oom.iteration < 0 ? std::string{"before the first iteration"}
                                        : fmt::format("in iteration {}", oom.iteration);
  if (!oom.phase.empty()) {
    where += fmt::format(", phase {}", oom.phase);
  }
  if (!oom.op.empty()) {
    where += fmt::format(", at {}", oom.op);
  }
  return fmt::format("OUT OF MEMORY {}\n{}\n", where,
                     oom_message(oom.out_of_memory, run.gpu.spec, run.limit));
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

Table iterations_table(const Run& run, const ReplayReport& report, bool in_bytes) {
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
  for (std::size_t i = 0; i < finished_iterations(report); ++i) {
    const IterationReport& iteration = report.iterations[i];
    const BatchShape& shape = shape_of(run.spec, i);
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

std::string remedies_text(std::optional<Bytes> needs, const std::vector<Remedy>& remedies) {
  const auto text_of = [](const std::optional<Bytes>& size) {
    return size ? size_text(*size) : std::string{"over 1 TiB"};
  };
  std::string text =
      fmt::format("\nWith room enough it would reserve {}. What would help:\n", text_of(needs));
  Table table{
      {{"change", Table::Align::left}, {"reserves"}, {"saves"}, {"verdict", Table::Align::left}}};
  for (const Remedy& remedy : remedies) {
    table.add_row({remedy.flags, text_of(remedy.needs),
                   needs && remedy.needs ? size_text(*needs - *remedy.needs) : "?",
                   remedy.fits ? "fits" : "does not fit"});
  }
  return text + table.text();
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

}  // namespace

int run_predict(std::span<const std::string> words) {
  CommandLine line{{"predict", "Whether a training run fits on a card, and what takes the memory",
                    "predict --model bert-large --batch 16 --seq 512 --precision bf16-amp --gpu "
                    "a100-40g"}};
  RunFlags flags{line};
  std::string timeline_path;
  line.text("timeline", "FILE", timeline_path,
            "write streams and memory over time, for Perfetto or chrome://tracing");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  const Run run = flags.run();
  if (flags.policies().size() != 1) {
    throw Fault{"--policy: predict takes one policy ('peakcast compare' takes several)"};
  }
  const Trace trace = program_of(run, Time::simulated);
  std::ostringstream timeline_text;
  std::optional<TimelineWriter> timeline;
  if (!timeline_path.empty()) {
    timeline.emplace(timeline_text, run.gpu.name);
  }
  const Prediction prediction =
      predict(run, trace, Time::simulated, timeline ? &*timeline : nullptr);
  if (timeline) {
    timeline->finish();
    static_cast<void>(value_or_throw(write_file(timeline_path, timeline_text.view(), true)));
  }
  const bool fits = !prediction.report.oom;
  std::optional<Bytes> needs;
  std::vector<Remedy> remedies;
  if (!fits) {
    needs = unbounded_need(run, trace);
    remedies = find_remedies(run, trace);
  }
  switch (line.console().format) {
    case Format::json: {
      Json json = prediction_json(run, trace, prediction, line.echo());
      if (!fits) {
        json["unbounded_reserved_bytes"] = bytes_or_null(needs);
        json["remedies"] = remedies_json(remedies);
      }
      write_stdout(json_text(json));
      break;
    }
    case Format::csv:
      write_stdout(iterations_table(run, prediction.report, true).csv());
      break;
    case Format::text: {
      std::string text =
          run_text(run) + "\n" + verdict_text(run, prediction) + "\n" + breakdown_text(prediction);
      if (finished_iterations(prediction.report) > 0) {
        text += "\n" + iterations_table(run, prediction.report, false).text();
      }
      if (!fits) {
        text += remedies_text(needs, remedies);
      }
      write_stdout(text);
      break;
    }
  }
  return fits ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
