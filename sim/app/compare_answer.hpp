#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "allocators/packing.hpp"
#include "allocators/policy.hpp"
#include "sim/app/answer.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/core/memory_limit.hpp"
#include "sim/device/device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/trace/read_trace.hpp"

namespace peakcast::app {

/// `compare`: one program under several policies, beside the best packing.
struct CompareQuestion {
  std::string trace{};                  ///< a file; "" = the run
  std::optional<Run> run{};             ///< set when there is no trace
  std::optional<LoadedTrace> loaded{};  ///< a trace that is there already; `trace` is its name
  Bytes outside{};  ///< of the card's memory, beside the allocator's: a loaded trace's
  std::vector<PolicyName> policies{};
  /// PyTorch's settings of the policies that take them, and what the card and the allocator have.
  /// None: the trace's own. The run says all three itself.
  std::optional<std::string> alloc_conf{};
  std::optional<std::string> gpu{};  ///< whose memory the card of a trace has
  std::optional<MemoryLimit> limit{};
  std::optional<Bytes> capacity{};
  std::optional<Bytes> max_memory{};  ///< for reading the trace
  /// The policies were named, so settings that ask for another allocator are meant.
  bool policies_given{};
  std::int64_t pack_steps{PackBudget{}.search_steps};
  std::int64_t repeat{};  ///< the last iteration, so many times more
  bool packs{true};       ///< false: the floor alone
};

struct CompareAnswer {
  std::string engine{};  ///< that worked the run out; "" for a trace
  struct Row {
    PolicyName policy{};
    ReplayReport report{};
    std::optional<OomAnswer> oom{};
  };
  std::int64_t repeat{};
  Packing packing{};  ///< floor and packed; offsets are left out
  DeviceSpec device{};
  std::optional<Bytes> limit{};
  std::vector<Row> rows{};           ///< in the order of the question's policies
  std::vector<std::string> notes{};  ///< what is assumed

  /// No policy ran out of memory.
  [[nodiscard]] bool passed() const;
};

/// Every policy, PyTorch in both of its shapes among them.
[[nodiscard]] std::vector<PolicyName> all_policies();

/// Throws Fault: a trace that cannot be read, a policy that cannot be made.
[[nodiscard]] CompareAnswer answer(const CompareQuestion& question);

[[nodiscard]] const Writers<CompareAnswer>& compare_writers();

}  // namespace peakcast::app
