#include "sim/report/table.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {

void Table::add_row(std::vector<std::string> cells) {
  check(cells.size() == columns_.size(), "a row has one cell per column");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t width = columns_[c].name.size();
    for (const auto& row : rows_) {
      width = std::max(width, row[c].size());
    }
    widths.push_back(width);
  }
  std::string out;
  const auto put_line = [&](auto&& cell_of) {
    std::string line;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::string& cell = cell_of(c);
      const std::string padding(widths[c] - cell.size(), ' ');
      line += c > 0 ? "  " : "";
      line += columns_[c].align == Align::right ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  put_line([&](std::size_t c) -> const std::string& { return columns_[c].name; });
  for (const auto& row : rows_) {
    put_line([&](std::size_t c) -> const std::string& { return row[c]; });
  }
  return out;
}

std::string Table::csv() const {
  std::string out;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    out += (c > 0 ? "," : "") + csv_cell(columns_[c].name);
  }
  out += "\n";
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      out += (c > 0 ? "," : "") + csv_cell(row[c]);
    }
    out += "\n";
  }
  return out;
}

std::string csv_cell(std::string_view cell) {
  if (cell.find_first_of(",\"\r\n") == std::string_view::npos) {
    return std::string{cell};
  }
  std::string quoted = "\"";
  for (const char c : cell) {
    quoted += c == '"' ? std::string{"\"\""} : std::string{c};
  }
  return quoted + "\"";
}

std::string folded(std::string_view text, std::string_view indent, std::size_t width) {
  std::string out;
  std::size_t column = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(" \n"), text.size());
    const bool breaks = column > 0 && out.back() == ' ' && column + end > width;
    if (breaks) {
      out.back() = '\n';
      out += indent;
      column = indent.size();
    }
    out += text.substr(0, end);
    column += end;
    if (end < text.size()) {
      out += text[end];
      column = text[end] == '\n' ? 0 : column + 1;
    }
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return out;
}

std::string count_text(long long count) {
  std::string digits = std::to_string(count);
  const std::size_t first = digits.front() == '-' ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3; at -= 3) {
    digits.insert(at - 3, " ");
  }
  return digits;
}

}  // namespace peakcast
