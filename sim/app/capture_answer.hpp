#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/program_run.hpp"
#include "sim/core/units.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/engine/replay.hpp"
#include "workloads/capture/captured_run.hpp"

namespace peakcast::app {

/// `capture`: what does this program take on an emulated card?
struct CaptureQuestion {
  std::string gpu{"h100-80g"};
  std::optional<Bytes> capacity{};
  std::optional<MemoryLimit> limit{};
  std::string alloc_conf{};
  std::int64_t world{1};
  std::string rank{};                  ///< "": as the program starts itself; a number; "all"
  std::vector<std::string> assumed{};  ///< as parse_assumed_value() has them
  bool stacks{};
  bool quiet{};  ///< the program's stdout goes to our stderr: ours holds results only
  std::vector<std::string> program{};

  /// Declares the flags before `--`.
  void declare(CommandLine& line);
};

/// One process on one card: what was captured, and its replay, which gives the figures.
struct CaptureRunAnswer {
  capture::CapturedRun run{};
  ReplayReport report{};  ///< by the recorded addresses: what PyTorch did
  ReplayReport timed{};   ///< against simulated time
  std::optional<OomAnswer> oom{};
  std::int64_t events{};   ///< of PyTorch's allocator
  std::int64_t matched{};  ///< as many of them the replay made the same
  /// Steps of the program's first optimizer that ended: the reports' iterations of that many.
  [[nodiscard]] std::size_t steps() const;
};

struct CaptureAnswer {
  CaptureQuestion question{};
  GpuDescription gpu{};  ///< with --capacity
  ProgramEnd end{};
  std::vector<OutsideItem> outside{};
  Bytes outside_sum{};
  std::vector<CaptureRunAnswer> runs{};  ///< by rank; none: nothing was allocated on a card

  [[nodiscard]] bool fits() const;
  [[nodiscard]] Bytes peak_device(const CaptureRunAnswer& run) const {
    return Bytes{run.report.statistics.reserved.peak} + outside_sum;
  }
  /// What is left of the card or of the limit at the peak.
  [[nodiscard]] Bytes room(const CaptureRunAnswer& run) const;
  /// The rank that runs out of memory, else the one that takes most. Precondition: there is one.
  [[nodiscard]] const CaptureRunAnswer& worst() const;
};

/// Runs the program. Throws Fault: an unknown card, no library, a program that cannot be started.
[[nodiscard]] CaptureAnswer answer(const CaptureQuestion& question);

[[nodiscard]] const Writers<CaptureAnswer>& capture_writers();

/// The words behind "--", taken off `words`. Empty: there is no "--", or nothing behind it.
[[nodiscard]] std::vector<std::string> program_of(std::span<const std::string>& words);

}  // namespace peakcast::app
