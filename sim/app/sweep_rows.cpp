#include "sim/app/sweep_rows.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

std::string cell_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// The figures of a row without an answer: as many empty cells as head() has between verdict and
/// error.
constexpr std::string_view kErrorCells = "error,,,,,,,,,,,,";

/// For spreadsheets; the byte counts beside them are exact.
std::string gib_text(Bytes size) {
  constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
  return fmt::format("{:.3f}", static_cast<double>(size.count()) / kGib);
}

std::string json_line(const Json& row) {
  return row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string joined(const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    line += (i == 0 ? "" : ",") + csv_cell(cells[i]);
  }
  return line;
}

/// "FITS" with the figures as far as `columns` goes.
std::vector<std::string> figures_of(const SweepPoint& point, std::size_t columns) {
  constexpr double kMillisecond = 1e6;
  if (!point.error.empty()) {
    std::vector<std::string> cells(columns);
    cells.front() = "error";
    return cells;
  }
  const bool fits = point.verdict != Verdict::out_of_memory;
  std::vector<std::string> cells{
      std::string{in_capitals(point.verdict)}, size_text(point.peak_device),
      fits ? size_text(point.headroom.spare) : "",
      fits ? fmt::format("{:.1f} ms",
                         static_cast<double>(point.last_iteration.count()) / kMillisecond)
           : "",
      size_text(point.peak_reserved)};
  cells.resize(columns);
  return cells;
}

Table table_of(const SweepGrid& grid, std::span<const SweepPoint> points, std::size_t columns) {
  constexpr std::array<std::string_view, 5> kFigures{"verdict", "on the card", "to spare", "a step",
                                                     "reserved"};
  std::vector<Table::Column> heads;
  for (const SweepGrid::Axis& axis : grid.axes()) {
    const bool numbers = axis.values.front().is_number();
    heads.push_back({axis.flag, numbers ? Table::Align::right : Table::Align::left});
  }
  for (std::size_t i = 0; i < columns; ++i) {
    heads.push_back(
        {std::string{kFigures.at(i)}, i == 0 ? Table::Align::left : Table::Align::right});
  }
  Table table{std::move(heads)};
  for (std::size_t i = 0; i < points.size(); ++i) {
    std::vector<std::string> cells;
    for (const Json& value : grid.values_at(i)) {
      cells.push_back(cell_of(value));
    }
    for (std::string& figure : figures_of(points[i], columns)) {
      cells.push_back(std::move(figure));
    }
    table.add_row(std::move(cells));
  }
  return table;
}

}  // namespace

std::string SweepRows::head() const {
  if (format_ == Format::json) {
    return "";
  }
  std::vector<std::string> names;
  for (const SweepGrid::Axis& axis : grid_.axes()) {
    names.push_back(axis.flag);
  }
  for (const SweepGrid::Shared& shared : grid_.shared()) {
    names.push_back(shared.flag);
  }
  for (const char* name :
       {"verdict", "peak_allocated_bytes", "peak_reserved_bytes", "peak_device_bytes",
        "oom_iteration", "oom_phase", "last_iteration_ns", "spare_bytes", "retries",
        "peak_allocated_gib", "peak_reserved_gib", "peak_device_gib", "error", "engine"}) {
    names.emplace_back(name);
  }
  return joined(names) + "\n";
}

std::string SweepRows::prefix(std::size_t index) const {
  if (format_ == Format::json) {
    Json row;
    static const Json kSchema = report_head("sweep", Json::object()).at("schema_version");
    row["schema_version"] = kSchema;
    row["point"] = Json::object();
    const std::vector<Json> values = grid_.values_at(index);
    for (std::size_t axis = 0; axis < values.size(); ++axis) {
      row["point"][grid_.axes()[axis].flag] = values[axis];
    }
    std::string line = json_line(row);
    line.resize(line.size() - 2);  // "}\n"
    return line + ",";
  }
  std::vector<std::string> cells;
  for (const Json& value : grid_.values_at(index)) {
    cells.push_back(cell_of(value));
  }
  for (const SweepGrid::Shared& shared : grid_.shared()) {
    cells.push_back(cell_of(shared.value));
  }
  return joined(cells) + (cells.empty() ? "" : ",");
}

std::string SweepRows::csv_row(std::size_t index, const SweepPoint& point) const {
  if (!point.error.empty()) {
    return prefix(index) + std::string{kErrorCells} + csv_cell(point.error) + ",\n";
  }
  return prefix(index) +
         joined({std::string{to_string(point.verdict)},
                 std::to_string(point.peak_allocated.count()),
                 std::to_string(point.peak_reserved.count()),
                 std::to_string(point.peak_device.count()),
                 point.oom_iteration ? std::to_string(*point.oom_iteration) : "", point.oom_phase,
                 std::to_string(point.last_iteration.count()),
                 std::to_string(point.headroom.spare.count()),
                 std::to_string(point.headroom.retries), gib_text(point.peak_allocated),
                 gib_text(point.peak_reserved), gib_text(point.peak_device), "", point.engine}) +
         "\n";
}

std::string SweepRows::json_row(std::size_t index, const SweepPoint& point) const {
  Json row;
  if (!point.error.empty()) {
    row["verdict"] = "error";
    row["error"] = point.error;
    return prefix(index) + json_line(row).substr(1);
  }
  row["verdict"] = to_string(point.verdict);
  row["engine"] = point.engine;
  row["peak_allocated_bytes"] = point.peak_allocated.count();
  row["peak_reserved_bytes"] = point.peak_reserved.count();
  row["peak_device_bytes"] = point.peak_device.count();
  row["oom_iteration"] = point.oom_iteration ? Json(*point.oom_iteration) : Json(nullptr);
  row["oom_phase"] = point.oom_iteration ? Json(point.oom_phase) : Json(nullptr);
  row["last_iteration_ns"] = point.last_iteration.count();
  row["spare_bytes"] = point.headroom.spare.count();
  row["retries"] = point.headroom.retries;
  return prefix(index) + json_line(row).substr(1);
}

std::string SweepRows::row(std::size_t index, const SweepPoint& point) const {
  return format_ == Format::json ? json_row(index, point) : csv_row(index, point);
}

std::string SweepRows::error_of(std::size_t index, const std::string& line) const {
  const std::string_view rest = std::string_view{line}.substr(prefix(index).size());
  if (format_ == Format::json) {
    const Json row = Json::parse(line, nullptr, false);
    return row.is_object() && row.contains("error") ? cell_of(row["error"]) : "";
  }
  return rest.starts_with(kErrorCells)
             ? std::string{rest.substr(kErrorCells.size(), rest.size() - kErrorCells.size() - 1)}
             : "";
}

std::string sweep_text(const SweepGrid& grid, std::span<const SweepPoint> points) {
  std::string text;
  for (const SweepGrid::Shared& shared : grid.shared()) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", shared.flag, cell_of(shared.value));
  }
  text = text.empty() ? "" : folded(text) + "\n\n";
  constexpr std::size_t kAllFigures = 5;
  for (std::size_t columns = kAllFigures;; --columns) {  // the last ones go where a page is narrow
    const std::string table = table_of(grid, points, columns).text();
    const auto lines = std::count(table.begin(), table.end(), '\n');
    constexpr std::size_t kHeads = 2;
    if (columns == 2 || static_cast<std::size_t>(lines) <= points.size() + kHeads) {
      return text + table;  // a row is a line
    }
  }
}

}  // namespace peakcast::app
