#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sim/device/device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// The first out-of-memory of a run, as every command tells it.
struct OomAnswer {
  OomReport at{};
  std::int64_t event{};   ///< the recorded entry, or the op when there is no recording
  std::string message{};  ///< PyTorch's own words for it
};

/// None when the run had none. `trace`, `device` and `limit` are what was replayed.
[[nodiscard]] std::optional<OomAnswer> oom_answer(const ReplayReport& report, const Trace& trace,
                                                  const DeviceSpec& device,
                                                  std::optional<Bytes> limit);

/// null, or {iteration, phase, op, event, requested_bytes, free_bytes, largest_free_block_bytes,
/// reserved_bytes, message}.
[[nodiscard]] Json oom_json(const std::optional<OomAnswer>& oom);
/// "in iteration 1, phase backward, at aten::mm".
[[nodiscard]] std::string oom_place(const OomAnswer& oom);

}  // namespace peakcast::app
