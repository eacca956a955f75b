#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "workloads/capture/log.hpp"

namespace peakcast::capture {

/// Writes this process's log. Serial: the machine's lock is held. A child made by fork() begins a
/// log of its own.
class LogWriter {
 public:
  /// `directory` "" writes nothing.
  LogWriter(std::string directory, std::int64_t total)
      : directory_{std::move(directory)}, total_{total} {}
  [[nodiscard]] bool is_on() const { return !directory_.empty(); }
  void write(Record record);
  /// The string's number in this log; says it first when it is new. `text` is kept.
  [[nodiscard]] std::uint32_t string(std::string_view text);
  /// After fork(), in the child.
  void forked();

 private:
  [[nodiscard]] Record* next();
  void begin();
  void grow();
  static std::uint8_t thread_number();

  std::string directory_;
  std::int64_t total_;
  int file_{-1};
  Record* window_{};
  std::size_t used_{};  ///< records in the window
  std::int64_t offset_{};
  std::unordered_map<std::string, std::uint32_t> strings_{};  // never iterated
};

}  // namespace peakcast::capture
