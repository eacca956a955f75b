#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace peakcast {

/// Rows of words under named columns. Two writings: aligned columns for people, CSV for programs.
class Table {
 public:
  enum class Align : unsigned char { left, right };
  struct Column {
    std::string name{};
    Align align{Align::right};
  };
  explicit Table(std::vector<Column> columns) : columns_{std::move(columns)} {}

  /// One word per column.
  void add_row(std::vector<std::string> cells);
  [[nodiscard]] bool empty() const { return rows_.empty(); }

  /// Columns two spaces apart, no trailing spaces, each line ends in '\n'. Width counts bytes.
  [[nodiscard]] std::string text() const;
  /// A header line and one line a row; a cell with a comma, quote or line break is quoted.
  [[nodiscard]] std::string csv() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_{};
};

/// `cell` as CSV wants it (RFC 4180).
[[nodiscard]] std::string csv_cell(std::string_view cell);

/// `text` with line breaks in place of spaces, so that no line is longer than `width` where its
/// words allow it; lines after the first begin with `indent`. Line breaks in `text` stay.
[[nodiscard]] std::string folded(std::string_view text, std::string_view indent = "",
                                 std::size_t width = 80);

/// 1234567 as "1 234 567".
[[nodiscard]] std::string count_text(long long count);

}  // namespace peakcast
