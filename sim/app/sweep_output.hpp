#pragma once

#include <cstddef>
#include <string>

#include "sim/app/sweep_rows.hpp"

namespace peakcast::app {

/// Where a sweep's lines go: stdout, or a file that goes on where an earlier run ended.
class SweepOutput {
 public:
  /// `file` "": stdout. A file that is there keeps the whole lines that it has, which must be those
  /// of `rows`' first points; a line that was cut is written anew. Throws Fault: the file is that
  /// of another grid, or cannot be written.
  SweepOutput(const SweepRows& rows, std::size_t points, std::string file);
  /// Points whose rows are there already; the next row is that of this one.
  [[nodiscard]] std::size_t done() const { return done_; }
  /// Rows without an answer among them, and what the first one says.
  [[nodiscard]] std::size_t errors() const { return errors_; }
  [[nodiscard]] const std::string& first_error() const { return first_error_; }

  /// A whole line, which stays whatever ends the process afterwards. Throws Fault.
  void write(const std::string& line) const;

 private:
  void resume(const SweepRows& rows, std::size_t points);

  std::string file_;
  std::size_t done_{};
  std::size_t errors_{};
  std::string first_error_{};
};

}  // namespace peakcast::app
