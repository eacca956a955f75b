#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "allocators/policy.hpp"
#include "sim/device/device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/trace.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast::app {

/// The first out-of-memory of a run, as every command tells it.
struct OomAnswer {
  OomReport at{};
  std::int64_t event{};   ///< the recorded entry, or the op when there is no recording
  std::string message{};  ///< PyTorch's own words for it where its allocator served its program
};

/// None when the run had none. `trace`, `device` and `limit` are what was replayed; `pytorch`:
/// speak as PyTorch does.
[[nodiscard]] std::optional<OomAnswer> oom_answer(const ReplayReport& report, const Trace& trace,
                                                  const DeviceSpec& device,
                                                  std::optional<Bytes> limit, bool pytorch);
/// Whether a replay under `policy` of a trace that was read as `format` speaks as PyTorch does:
/// its allocator, and a trace that is not another library's.
[[nodiscard]] bool speaks_as_pytorch(const PolicyName& policy, TraceFormat format);

/// null, or {iteration, phase, op, event, requested_bytes, free_bytes, largest_free_block_bytes,
/// reserved_bytes, message}.
[[nodiscard]] Json oom_json(const std::optional<OomAnswer>& oom);
/// Why `run` ran out where no one would expect it, and what to say instead; "" when there is
/// nothing to add.
[[nodiscard]] std::string oom_note(const std::optional<OomAnswer>& oom, const RunSpec& spec);
/// "in iteration 1, phase backward, at aten::mm".
[[nodiscard]] std::string oom_place(const OomAnswer& oom);

}  // namespace peakcast::app
