#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sim/app/capture_answer.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/read_trace.hpp"

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

  /// What `make` makes by the native engine. Nothing when the captured one is to be asked: it was
  /// chosen, flags were given that only it knows, or `make` throws that something is not modelled
  /// and --engine leaves the choice, which is then said on stderr.
  template <class Make>
  [[nodiscard]] auto natively(const Make& make) const -> std::optional<decltype(make())> {
    if (captures()) {
      return std::nullopt;
    }
    try {
      return make();
    } catch (const Fault& fault) {
      if (!captures_after(fault)) {
        throw;
      }
    }
    return std::nullopt;
  }
  [[nodiscard]] const std::string& python() const { return python_; }

 private:
  [[nodiscard]] bool captures() const;
  [[nodiscard]] bool captures_after(const Fault& fault) const;

  const CommandLine& line_;
  Engine engine_{};
  std::string python_{"python3"};
  std::string images_{};
  std::string offload_{};
  bool compile_{};
};

struct DescribedCapture {
  Json changes = Json::object();  ///< flags, as they are echoed, with other values than were given
  /// On a card that holds anything, for a trace that others replay: what the flags say of the card
  /// and the limit is theirs to heed.
  bool unbounded{};
};

/// Writes the program that the flags describe (workloads/capture/described_run.py) and what it is
/// to read into a folder of its own, and runs it on the emulated card. Its own words go to stderr,
/// and how long it took. One at a time, whoever calls. Throws Fault: what `answer(CaptureQuestion)`
/// throws, a Python without PyTorch, what the program refuses, an interrupt.
[[nodiscard]] CaptureAnswer capture_described(const CommandLine& line, RunFlags& flags,
                                              const EngineFlags& engine,
                                              const DescribedCapture& how = {});
/// The same where figures are those of PyTorch's own allocator: throws Fault for other policies.
[[nodiscard]] CaptureAnswer capture_as_pytorch(const CommandLine& line, RunFlags& flags,
                                               const EngineFlags& engine,
                                               const DescribedCapture& how = {});
/// Such a run in two lines, for people.
[[nodiscard]] std::string captured_text(const RunFlags& flags, const EngineFlags& engine,
                                        const CaptureAnswer& found);

/// An unbounded capture as a trace that is there already: the first rank's.
struct CapturedTrace {
  LoadedTrace loaded{};
  Bytes capacity{};  ///< of the card that the flags name
  Bytes outside{};   ///< of which something lies beside the allocator's
};
[[nodiscard]] CapturedTrace captured_trace(const CommandLine& line, RunFlags& flags,
                                           const EngineFlags& engine);

}  // namespace peakcast::app
