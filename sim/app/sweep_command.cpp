#include <algorithm>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/verdict.hpp"
#include "sim/core/json_nesting.hpp"
#include "sim/core/text_file.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {

namespace {

/// A sweep's file: the flags that all points share, and those that vary, in their order.
///     {"run": {"model": "bert-large", "iterations": 2},
///      "grid": {"seq": [128, 512], "gpu": ["a100-40g", "h100-80g"]}}
struct Spec {
  std::vector<std::string> shared{};  ///< words of a command line
  struct Axis {
    std::string flag{};
    std::vector<Json> values{};
  };
  std::vector<Axis> axes{};
};

/// A JSON value as the word of a flag; true is a flag without a word.
void add_words(std::vector<std::string>& words, const std::string& flag, const Json& value,
               const std::string& file) {
  const std::string name = "--" + flag;
  if (value.is_boolean()) {
    if (value.get<bool>()) {
      words.push_back(name);
    }
  } else if (value.is_string()) {
    words.push_back(name + "=" + value.get<std::string>());
  } else if (value.is_number_integer()) {
    words.push_back(name + "=" + std::to_string(value.get<std::int64_t>()));
  } else if (value.is_array()) {  // a repeatable flag
    for (const Json& item : value) {
      add_words(words, flag, item, file);
    }
  } else {
    throw Fault{fmt::format("{}: \"{}\" must be a string, a whole number, true, false or a list",
                            file, flag)};
  }
}

std::string text_of(const std::string& file) {
  if (file != "-") {
    return value_or_throw(read_text_file(file));
  }
  const std::string* const given = captured_input();
  return given != nullptr ? *given : std::string{std::istreambuf_iterator<char>{std::cin}, {}};
}

Spec read_spec(const std::string& file) {
  const std::string text = text_of(file);
  if (const auto deep = too_deep_json(text)) {
    throw Fault{fmt::format("{}: byte {}: nested too deep", file, *deep)};
  }
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw Fault{fmt::format("{}: byte {}: not JSON", file, error.byte)};
  }
  if (!json.is_object()) {
    throw Fault{fmt::format("{}: must be an object with \"run\" and \"grid\"", file)};
  }
  Spec spec;
  for (const auto& [key, value] : json.items()) {
    if ((key != "run" && key != "grid") || !value.is_object()) {
      throw Fault{fmt::format("{}: \"{}\" is not \"run\" or \"grid\" with an object", file, key)};
    }
    for (const auto& [flag, item] : value.items()) {
      if (key == "run") {
        add_words(spec.shared, flag, item, file);
      } else if (!item.is_array() || item.empty()) {
        throw Fault{fmt::format("{}: \"grid\".\"{}\" must be a list of values", file, flag)};
      } else {
        spec.axes.push_back({flag, {item.begin(), item.end()}});
      }
    }
  }
  return spec;
}

/// One point of the grid and what came out.
struct Point {
  std::vector<Json> values{};  ///< by axis
  std::string verdict{};
  Headroom headroom{};
  std::int64_t peak_allocated{};
  std::int64_t peak_reserved{};
  std::int64_t peak_device{};
  std::optional<std::int64_t> oom_iteration{};
  std::string oom_phase{};
  std::int64_t duration{};  ///< of the last iteration
  std::string engine{};
  std::string error{};  ///< why there is no answer; "" when there is one
  bool done{};
};

void fill(Point& point, const ReplayReport& report, Bytes device) {
  point.peak_allocated = report.statistics.allocated.peak;
  point.peak_reserved = report.statistics.reserved.peak;
  point.peak_device = device.count();
  if (report.oom) {
    point.oom_iteration = report.oom->iteration;
    point.oom_phase = report.oom->phase;
  }
}

/// Of the rank that takes most.
Point captured_point(const CaptureAnswer& captured) {
  const CaptureRunAnswer& worst = captured.worst();
  Point point{.verdict = captured.fits() ? "fits" : "out_of_memory", .engine = "captured"};
  fill(point, worst.report, captured.peak_device(worst));
  const std::size_t steps = worst.steps();
  if (!worst.report.oom && steps > 0 && steps <= worst.timed.iterations.size()) {
    point.duration = worst.timed.iterations[steps - 1].duration.count();
  }
  point.headroom.spare = captured.room(worst);
  point.headroom.retries = worst.report.statistics.num_alloc_retries;
  return point;
}

void run_point(const Spec& spec, Point& point, const std::string& file) {
  std::vector<std::string> words = spec.shared;
  for (std::size_t axis = 0; axis < spec.axes.size(); ++axis) {
    add_words(words, spec.axes[axis].flag, point.values[axis], file);
  }
  CommandLine line{{"sweep", "one point of a sweep", "predict"}};
  RunFlags flags{line};
  const EngineFlags engine{line};
  Margin margin;
  declare_margin(line, margin);
  if (line.parse(words) || (!flags.given() && !line.given("program"))) {
    throw Fault{fmt::format("{}: a point needs \"model\"", file)};
  }
  const auto native = engine.natively([&] {
    Point of_run;
    const Run run = flags.run();
    const Program trace = program_of(run, Time::simulated);
    const Prediction prediction = predict(run, trace, Time::simulated);
    const ReplayReport& report = prediction.report;
    fill(of_run, report, prediction.peak_device());
    of_run.headroom = headroom(run, prediction, evidence_for(run), margin);
    of_run.verdict = to_string(verdict(prediction, of_run.headroom));
    if (!report.oom && !report.iterations.empty()) {
      of_run.duration = report.iterations.back().duration.count();
    }
    of_run.engine = "native";
    return of_run;
  });
  Point found = native ? *native : captured_point(capture_as_pytorch(line, flags, engine));
  found.values = std::move(point.values);
  point = std::move(found);
}

std::string cell_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Table table_of(const Spec& spec) {
  std::vector<Table::Column> columns;
  for (const Spec::Axis& axis : spec.axes) {
    columns.push_back({axis.flag, Table::Align::left});
  }
  for (const char* name : {"verdict", "peak_allocated_bytes", "peak_reserved_bytes",
                           "peak_device_bytes", "oom_iteration", "oom_phase", "last_iteration_ns",
                           "spare_bytes", "retries", "error", "engine"}) {
    columns.push_back({name});
  }
  return Table{std::move(columns)};
}

std::string json_row(const Spec& spec, const Point& point) {
  static const Json kSchema = report_head("sweep", Json::object()).at("schema_version");
  Json row;
  row["schema_version"] = kSchema;
  Json at = Json::object();
  for (std::size_t axis = 0; axis < spec.axes.size(); ++axis) {
    at[spec.axes[axis].flag] = point.values[axis];
  }
  row["point"] = std::move(at);
  row["verdict"] = point.verdict;
  if (!point.error.empty()) {
    row["error"] = point.error;
    return row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  row["engine"] = point.engine;
  row["peak_allocated_bytes"] = point.peak_allocated;
  row["peak_reserved_bytes"] = point.peak_reserved;
  row["peak_device_bytes"] = point.peak_device;
  row["oom_iteration"] = point.oom_iteration ? Json(*point.oom_iteration) : Json(nullptr);
  row["oom_phase"] = point.oom_iteration ? Json(point.oom_phase) : Json(nullptr);
  row["last_iteration_ns"] = point.duration;
  row["spare_bytes"] = point.headroom.spare.count();
  row["retries"] = point.headroom.retries;
  return row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// A line of the output.
std::string row_of(const Spec& spec, const Point& point, Format format) {
  if (format == Format::json) {
    return json_row(spec, point);
  }
  std::vector<std::string> cells;
  for (const Json& value : point.values) {
    cells.push_back(cell_of(value));
  }
  const bool answered = point.error.empty();
  const auto number = [&](std::int64_t value) {
    return answered ? std::to_string(value) : std::string{};
  };
  cells.insert(
      cells.end(),
      {point.verdict, number(point.peak_allocated), number(point.peak_reserved),
       number(point.peak_device), point.oom_iteration ? std::to_string(*point.oom_iteration) : "",
       point.oom_phase, number(point.duration), number(point.headroom.spare.count()),
       number(point.headroom.retries), point.error, point.engine});
  Table table = table_of(spec);
  table.add_row(std::move(cells));
  const std::string csv = table.csv();
  return csv.substr(csv.find('\n') + 1);
}

}  // namespace

int run_sweep(std::span<const std::string> words) {
  std::string file;
  std::int64_t jobs = 0;
  CommandLine line{{"sweep",
                    "predict for every point of a grid: SPEC.json holds {\"run\": {FLAG: VALUE}, "
                    "\"grid\": {FLAG: [VALUES]}}; the last flag varies fastest. CSV, or JSON lines "
                    "with --format json",
                    "sweep grid.json --jobs 8"}};
  line.positional("SPEC", file, "the grid; - is stdin");
  line.number("jobs", jobs, "threads; 0: one a core", 0, 1024);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  const Spec spec = read_spec(file);
  std::size_t count = 1;
  constexpr std::size_t kMost = 1'000'000;
  for (const Spec::Axis& axis : spec.axes) {
    count *= axis.values.size();
    if (count > kMost) {
      throw Fault{fmt::format("{}: more than {} points", file, kMost)};
    }
  }
  std::vector<Point> points(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::size_t rest = i;
    points[i].values.resize(spec.axes.size());
    for (std::size_t axis = spec.axes.size(); axis-- > 0;) {
      const std::vector<Json>& values = spec.axes[axis].values;
      points[i].values[axis] = values[rest % values.size()];
      rest /= values.size();
    }
  }
  const Format format = line.console().format;
  if (format != Format::json) {
    write_stdout(table_of(spec).csv());
  }
  // Rows are written as they come, whole and in order: what was found stays found.
  std::mutex writing;
  std::size_t written = 0;
  std::size_t finished = 0;
  Console console = line.console();
  console.quiet = console.quiet || isatty(STDOUT_FILENO) == 1;  // the rows are on the screen
  Progress progress{console, "points"};
  run_jobs(count, static_cast<std::size_t>(jobs), [&](std::size_t i) {
    try {
      run_point(spec, points[i], file);
    } catch (const Fault& fault) {
      points[i].verdict = "error";
      points[i].error = fault.what();
    }
    const std::lock_guard lock{writing};
    points[i].done = true;
    for (; written < count && points[written].done; ++written) {
      write_stdout(row_of(spec, points[written], format));
    }
    progress.advance_to(++finished, count);
  });
  const auto wrong = std::find_if(points.begin(), points.end(),
                                  [](const Point& point) { return !point.error.empty(); });
  if (wrong != points.end()) {
    const auto all = std::count_if(points.begin(), points.end(),
                                   [](const Point& point) { return !point.error.empty(); });
    throw Fault{
        fmt::format("{} of {} points have no answer; the first: {}", all, count, wrong->error)};
  }
  return kFits;
}

}  // namespace peakcast::app
