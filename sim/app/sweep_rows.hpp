#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/app/console.hpp"
#include "sim/app/sweep_grid.hpp"
#include "sim/app/verdict.hpp"

namespace peakcast::app {

/// What came out at one point of a sweep.
struct SweepPoint {
  std::string error{};  ///< why there is no answer; "" when there is one
  Verdict verdict{};
  Headroom headroom{};
  Bytes peak_allocated{};
  Bytes peak_reserved{};
  Bytes peak_device{};
  std::optional<std::int64_t> oom_iteration{};
  std::string oom_phase{};
  SimDuration last_iteration{};
  std::string engine{};  ///< "native" or "captured"
};

/// The point as `predict` answers it. A fault of its flags is its error.
[[nodiscard]] SweepPoint sweep_point(const SweepGrid& grid, std::size_t index);

/// The rows of a sweep as lines that stand alone, so that a half-written file can go on.
class SweepRows {
 public:
  /// `format` is csv or json. `grid` outlives this.
  SweepRows(const SweepGrid& grid, Format format) : grid_{grid}, format_{format} {}
  /// The line above them; "" for JSON.
  [[nodiscard]] std::string head() const;
  [[nodiscard]] std::string row(std::size_t index, const SweepPoint& point) const;
  /// What row(index, ...) begins with, whatever came out.
  [[nodiscard]] std::string prefix(std::size_t index) const;
  /// The error of a line that row() made; "" when it has an answer.
  [[nodiscard]] std::string error_of(std::size_t index, const std::string& line) const;

 private:
  [[nodiscard]] std::string csv_row(std::size_t index, const SweepPoint& point) const;
  [[nodiscard]] std::string json_row(std::size_t index, const SweepPoint& point) const;

  const SweepGrid& grid_;
  Format format_;
};

/// All points for people: what they share above, then a table as wide as a page allows.
[[nodiscard]] std::string sweep_text(const SweepGrid& grid, std::span<const SweepPoint> points);

}  // namespace peakcast::app
