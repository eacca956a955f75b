#pragma once

#include <cstdint>
#include <string>

#include "sim/app/capture_answer.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/run_flags.hpp"

namespace peakcast::app {

/// What works out a described run.
enum class Engine : std::uint8_t {
  automatic,  ///< native, and captured what that does not model
  native,     ///< the small PyTorch of workloads/: milliseconds
  captured,   ///< the run's own PyTorch program on the emulated card: seconds
};

/// The flags that say how a described run is worked out, and those of a run that only the captured
/// engine does. Declared beside RunFlags.
class EngineFlags {
 public:
  explicit EngineFlags(CommandLine& line);
  EngineFlags(const EngineFlags&) = delete;
  EngineFlags& operator=(const EngineFlags&) = delete;

  /// Whether the native engine is not to be asked at all: it was not wanted, or flags were given
  /// that it does not know.
  [[nodiscard]] bool captures() const;
  /// Whether `fault`, of the native engine, ends in a capture: it says that something is not
  /// modelled, and --engine leaves the choice.
  [[nodiscard]] bool captures_after(const Fault& fault) const;
  [[nodiscard]] const std::string& python() const { return python_; }

 private:
  const CommandLine& line_;
  Engine engine_{};
  std::string python_{"python3"};
  std::string images_{};
  std::string offload_{};
  bool compile_{};
};

/// Writes the program that the flags describe (workloads/capture/described_run.py) and what it is
/// to read into a folder of its own, and runs it on the emulated card. Its own words go to stderr.
/// Throws Fault: what `answer(CaptureQuestion)` throws, a Python without PyTorch, what the program
/// refuses.
[[nodiscard]] CaptureAnswer capture_described(const CommandLine& line, RunFlags& flags,
                                              const EngineFlags& engine);

}  // namespace peakcast::app
