#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/core/embedded.hpp"
#include "sim/core/size_text.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/report/gpu_json.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "workloads/family.hpp"
#include "workloads/model_config.hpp"
#include "workloads/model_names.hpp"

namespace peakcast::app {

namespace {

void print(const Console& console, const Json& json, const Table& people, const Table& programs) {
  switch (console.format) {
    case Format::json:
      write_stdout(json_text(json));
      break;
    case Format::csv:
      write_stdout(programs.csv());
      break;
    case Format::text:
      write_stdout(people.text());
      break;
  }
}

std::string millions_text(std::int64_t parameters) {
  return fmt::format("{:.1f} M", static_cast<double>(parameters) / 1e6);
}

Bytes always_outside(const GpuDescription& gpu) {
  Bytes sum;
  for (const OutsideItem& item : outside_items(gpu, {})) {
    sum += item.size;
  }
  return sum;
}

/// Whether what every run takes was measured on this card.
bool measured(const GpuDescription& gpu) {
  return std::all_of(gpu.outside.begin(), gpu.outside.end(), [](const OutsideItem& item) {
    return item.measured || item.when != OutsideWhen::always;
  });
}

}  // namespace

int run_models(std::span<const std::string> words) {
  CommandLine line{
      {"models", "The built-in models; with names, their config files", "models bert-large"}};
  std::vector<std::string> names;
  line.positionals("NAME", names, "print this model's config.json");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (!names.empty() && line.console().format == Format::text) {
    for (const std::string& name : names) {
      static_cast<void>(value_or_throw(load_model_config(name)));
      for (const EmbeddedFile& file : embedded_model_configs()) {
        if (file.name == builtin_model(name)) {
          write_stdout(file.text);
        }
      }
    }
    return kFits;
  }
  Json rows = Json::array();
  using Align = Table::Align;
  Table people{{{"model", Align::left},
                {"family", Align::left},
                {"task", Align::left},
                {"parameters"},
                {"layers"},
                {"hidden"}}};
  Table programs{{{"model", Align::left},
                  {"family", Align::left},
                  {"task", Align::left},
                  {"parameters"},
                  {"layers"},
                  {"hidden_size"},
                  {"heads"},
                  {"vocab_size"},
                  {"max_positions"}}};
  const auto add = [&](const ModelConfig& model) {
    const std::int64_t parameters = parameter_count(model);
    rows.push_back({{"model", model.name},
                    {"family", model.family->name},
                    {"task", to_string(model.task)},
                    {"parameters", parameters},
                    {"layers", model.layers},
                    {"hidden_size", model.hidden_size},
                    {"heads", model.heads},
                    {"vocab_size", model.vocab_size},
                    {"max_positions", model.max_positions}});
    std::vector<std::string> cells{model.name,
                                   std::string{model.family->name},
                                   std::string{to_string(model.task)},
                                   std::to_string(parameters),
                                   std::to_string(model.layers),
                                   std::to_string(model.hidden_size),
                                   std::to_string(model.heads),
                                   std::to_string(model.vocab_size),
                                   std::to_string(model.max_positions)};
    programs.add_row(cells);
    people.add_row({cells[0], cells[1], cells[2], millions_text(parameters), cells[4], cells[5]});
  };
  if (names.empty()) {
    for (const EmbeddedFile& file : embedded_model_configs()) {
      add(value_or_throw(load_model_config(std::string{file.name})));
    }
  }
  for (const std::string& name : names) {
    add(value_or_throw(load_model_config(name)));
  }
  Json json = report_head("models", line.echo());
  json["models"] = std::move(rows);
  print(line.console(), json, people, programs);
  return kFits;
}

int run_gpus(std::span<const std::string> words) {
  CommandLine line{{"gpus", "The known cards; with names, what lies outside the allocator on them",
                    "gpus h100-80g"}};
  std::vector<std::string> names;
  line.positionals("NAME", names, "tell all about this card (or JSON file)");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  std::vector<GpuDescription> gpus;
  if (names.empty()) {
    for (const EmbeddedFile& file : embedded_gpus()) {
      gpus.push_back(value_or_throw(load_gpu_description(std::string{file.name})));
    }
  }
  for (const std::string& name : names) {
    gpus.push_back(value_or_throw(load_gpu_description(name)));
  }
  using Align = Table::Align;
  Table people{{{"gpu", Align::left},
                {"card", Align::left},
                {"memory"},
                {"compute"},
                {"outside"},
                {"measured", Align::left}}};
  Table programs{{{"gpu", Align::left},
                  {"card", Align::left},
                  {"total_bytes"},
                  {"compute_capability"},
                  {"outside_bytes"},
                  {"measured", Align::left}}};
  Json rows = Json::array();
  for (const GpuDescription& gpu : gpus) {
    const std::string capability =
        fmt::format("{}.{}", gpu.spec.compute_major, gpu.spec.compute_minor);
    people.add_row({gpu.name, gpu.spec.name, size_text(gpu.spec.total), capability,
                    size_text(always_outside(gpu)), measured(gpu) ? "yes" : "no"});
    programs.add_row({gpu.name, gpu.spec.name, std::to_string(gpu.spec.total.count()), capability,
                      std::to_string(always_outside(gpu).count()),
                      measured(gpu) ? "true" : "false"});
    Json row = {{"gpu", gpu.name}, {"measured", measured(gpu)}};
    row.update(gpu_json(gpu));
    rows.push_back(std::move(row));
  }
  Json json = report_head("gpus", line.echo());
  json["gpus"] = std::move(rows);
  print(line.console(), json, people, programs);
  if (!names.empty() && line.console().format == Format::text) {
    for (const GpuDescription& gpu : gpus) {
      Table table{{{"outside on " + gpu.name, Align::left},
                   {"when", Align::left},
                   {"size"},
                   {"source", Align::left}}};
      for (const OutsideItem& item : gpu.outside) {
        table.add_row(
            {item.item, std::string{to_string(item.when)}, size_text(item.size), item.source});
      }
      write_stdout("\nmemory: " + gpu.total_source + "\n\n" + table.text());
    }
  }
  return kFits;
}

}  // namespace peakcast::app
