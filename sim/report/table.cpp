#include "sim/report/table.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

constexpr std::size_t kPage = 80;

std::vector<std::string> lines_of(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  const std::string broken = folded(text, "", width);
  std::size_t at = 0;
  while (true) {
    const std::size_t end = broken.find('\n', at);
    lines.push_back(broken.substr(at, end - at));
    if (end == std::string::npos) {
      return lines;
    }
    at = end + 1;
  }
}

/// A table on its way to a page: what each column takes, and what gives way where it is too wide.
class Grid {
 public:
  Grid(const std::vector<Table::Column>& columns, const std::vector<std::vector<std::string>>& rows)
      : columns_{columns}, rows_{rows} {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      widths_.push_back(std::max(columns[c].name.size(), widest_cell(c)));
    }
  }
  [[nodiscard]] std::size_t width() const {
    std::size_t sum = 0;
    for (std::size_t c = first_above_ ? 1 : 0; c < widths_.size(); ++c) {
      sum += (c > 0 ? kGap : 0) + widths_[c];  // what stands below a name is set in by a gap
    }
    return sum;
  }
  /// Names of several words take several lines.
  void break_heads() {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      std::size_t word = 0;
      for (const std::string& line : lines_of(columns_[c].name, 1)) {
        word = std::max(word, line.size());
      }
      widths_[c] = std::max(word, widest_cell(c));
    }
  }
  /// Text in the last column takes several lines; false when no room is left for it.
  bool break_last_cells() {
    constexpr std::size_t kReadable = 20;
    const std::size_t others = width() - widths_.back();
    if (columns_.back().align != Table::Align::left || others + kReadable > kPage) {
      return false;
    }
    widths_.back() = kPage - others;
    return true;
  }
  /// Where names are long, figures stand below them.
  void put_first_cells_above() {
    first_above_ = columns_.size() > 1 && columns_.front().align == Table::Align::left;
  }

  [[nodiscard]] std::string text() const {
    std::vector<std::string> names;
    for (const Table::Column& column : columns_) {
      names.push_back(column.name);
    }
    std::string out = row_text(names);
    for (const auto& row : rows_) {
      out += row_text(row);
    }
    return out;
  }

 private:
  static constexpr std::size_t kGap = 2;

  [[nodiscard]] std::size_t widest_cell(std::size_t column) const {
    std::size_t width = 0;
    for (const auto& row : rows_) {
      width = std::max(width, row[column].size());
    }
    return width;
  }
  [[nodiscard]] std::string row_text(const std::vector<std::string>& row) const {
    std::vector<std::vector<std::string>> cells;
    std::size_t height = 1;
    for (std::size_t c = 0; c < row.size(); ++c) {
      cells.push_back(row[c].size() > widths_[c] ? lines_of(row[c], widths_[c])
                                                 : std::vector<std::string>{row[c]});
      height = std::max(height, cells.back().size());
    }
    std::string out = first_above_ ? row.front() + "\n" : "";
    for (std::size_t l = 0; l < height; ++l) {
      std::string line;
      for (std::size_t c = first_above_ ? 1 : 0; c < row.size(); ++c) {
        const std::string cell = l < cells[c].size() ? cells[c][l] : "";
        const std::string padding(widths_[c] - std::min(widths_[c], cell.size()), ' ');
        line += c > 0 ? std::string(kGap, ' ') : "";
        line += columns_[c].align == Table::Align::right ? padding + cell : cell + padding;
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    return out;
  }

  const std::vector<Table::Column>& columns_;
  const std::vector<std::vector<std::string>>& rows_;
  std::vector<std::size_t> widths_{};
  bool first_above_{};
};

}  // namespace

void Table::add_row(std::vector<std::string> cells) {
  check(cells.size() == columns_.size(), "a row has one cell per column");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  Grid grid{columns_, rows_};
  if (grid.width() > kPage) {
    grid.break_heads();
  }
  if (grid.width() > kPage && !grid.break_last_cells()) {
    grid.put_first_cells_above();
    static_cast<void>(grid.width() <= kPage || grid.break_last_cells());
  }
  return grid.text();
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
