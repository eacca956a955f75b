#pragma once

#include <optional>
#include <string>

#include "sim/app/command_line.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// Where a command writes a trace, and how: the flags --to and --force, and a path.
class TraceOutput {
 public:
  /// Declares --to and --force.
  explicit TraceOutput(CommandLine& line);
  /// Writes `trace` to `path` ("-": stdout), packed as its name says; notes on stderr what the
  /// format does not keep. Throws Fault when the format is not known or the file is there already.
  void write(const Trace& trace, const std::string& path) const;
  /// For a command that also prints a report, in whatever format.
  void write_beside_report(const Trace& trace, const std::string& path) const;
  /// Throws what write() would for `path` alone, before there is a trace.
  void check_path(const std::string& path) const;

  [[nodiscard]] bool overwrites() const { return force_; }

 private:
  CommandLine& line_;
  std::optional<TraceFormat> target_{};
  bool force_{};
};

}  // namespace peakcast::app
