#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::capture {

/// An answer that rests on a rule: what the program asked for does not exist without a card.
struct Assumption {
  std::string site{};  ///< the program's line, or the function that was asked
  std::string question{};
  std::string answer{};
  std::int64_t count{};
  friend bool operator==(const Assumption&, const Assumption&) = default;
};

/// What one process did on one card.
struct CapturedRun {
  std::int64_t process{};
  std::int64_t rank{-1};  ///< -1: none
  int card{};
  Trace trace{};     ///< with all that the card saw: its streams can be timed
  Trace recorded{};  ///< the allocator's events and the marks alone: replays as it happened
  std::vector<std::string> stubs{};   ///< in order of first call
  std::vector<Assumption> assumed{};  ///< in order of first appearance
  std::string ran_out_at{};  ///< FILE:LINE of the first out-of-memory; "" for none or unknown
};

/// Reads a process's log (log.hpp). One run for each card that its allocator used; none when it
/// used none. `source` names the program.
[[nodiscard]] Expected<std::vector<CapturedRun>> read_log(const std::filesystem::path& file,
                                                          const std::string& source);

/// All logs of a directory, by rank, then by process, then by card.
[[nodiscard]] Expected<std::vector<CapturedRun>> read_logs(const std::filesystem::path& directory,
                                                           const std::string& source);

}  // namespace peakcast::capture
