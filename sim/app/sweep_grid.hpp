#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/report/json.hpp"

namespace peakcast::app {

/// A flag and its words, unread, as the command line gave them.
using GivenFlags = std::vector<std::pair<std::string, std::string>>;

/// The points of a sweep: the flags that all share, and those that vary, in their order; the last
/// one varies fastest. A value is a string, a number, true, or a list (of a repeatable flag).
class SweepGrid {
 public:
  struct Shared {
    std::string flag{};
    Json value{};
  };
  struct Axis {
    std::string flag{};
    std::vector<Json> values{};
  };

  /// {"run": {"model": "bert-large", "iterations": 2},
  ///  "grid": {"seq": [128, 512], "gpu": ["a100-40g", "h100-80g"]}}
  /// of a file; "-" is stdin. Throws Fault.
  [[nodiscard]] static SweepGrid from_file(const std::string& file);
  /// The same of a file's text; `file` stands in messages.
  [[nodiscard]] static SweepGrid from_text(std::string_view text, const std::string& file);
  /// Flags with several values are axes: "8,16,32", "128..512" (doubling), "8..24:8" (by steps),
  /// and "all" for --gpu. Throws Fault.
  [[nodiscard]] static SweepGrid from_flags(const GivenFlags& given);

  [[nodiscard]] const std::vector<Shared>& shared() const { return shared_; }
  [[nodiscard]] const std::vector<Axis>& axes() const { return axes_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Whether a point runs a foreign policy.
  [[nodiscard]] bool names_plugin() const;
  /// By axis. Precondition: point < size().
  [[nodiscard]] std::vector<Json> values_at(std::size_t point) const;
  /// The command line of one point, without its command.
  [[nodiscard]] std::vector<std::string> words_at(std::size_t point) const;
  /// What faults of the whole grid begin with: the file, or "sweep".
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  void finish();

  std::string name_{};
  std::vector<Shared> shared_{};
  std::vector<Axis> axes_{};
  std::size_t size_{1};
};

}  // namespace peakcast::app
