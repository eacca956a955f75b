#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sim/app/answer.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/engine/waste.hpp"
#include "sim/report/oom_text.hpp"
#include "sim/trace/read_trace.hpp"

namespace peakcast::app {

/// `explain`: why does memory that the policy holds serve nobody?
struct ExplainQuestion {
  std::variant<ReplayQuestion, Run> subject{};
  std::optional<LoadedTrace> loaded{};  ///< a ReplayQuestion's trace, where it is there already
};

struct ExplainAnswer {
  std::string subject{};  ///< for people: what was replayed, under what
  std::string engine{};   ///< that worked the run out; "" for a trace
  std::string policy{};
  std::string alloc_conf{};
  Bytes card{};  ///< its memory
  Waste waste{};
  Bytes floor{};  ///< the largest live sum: no policy that leaves buffers in place is below it
  std::vector<std::uint64_t> streams{};  ///< handle per StreamId
  /// Policies that hold less at their own peak, the least first.
  struct Alternative {
    std::string policy{};
    Bytes peak_reserved{};
  };
  std::vector<Alternative> alternatives{};
  std::vector<std::string> warnings{};
};

/// Throws Fault: a trace that cannot be read, a policy that cannot be made.
[[nodiscard]] ExplainAnswer answer(const ExplainQuestion& question);
[[nodiscard]] const Writers<ExplainAnswer>& explain_writers();

/// What an out-of-memory message says.
struct MessageAnswer {
  OomText text{};
  OomReading reading{};
};
[[nodiscard]] const Writers<MessageAnswer>& message_writers();

}  // namespace peakcast::app
