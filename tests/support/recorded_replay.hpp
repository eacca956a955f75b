#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::support {

/// What came out when a recording went through the pytorch policy under its own settings and limit.
struct RecordedReplay {
  std::vector<std::string> differences{};  ///< from the recording; the first few of each kind
  std::string events{};                    ///< what the policy did, as a recorded CSV
  std::int64_t recorded_peak_reserved{};   ///< as the recording's figures say; 0 when they do not
  std::int64_t peak_reserved{};
  std::int64_t allocated_segments{};
  std::int64_t recorded_allocated_segments{};
  /// Events whose request the recorded card refused, though nothing in the trace explains it.
  std::size_t refusals{};
  /// The recorded run had retries, out-of-memory, a limit or garbage collection.
  bool under_pressure{};
};

enum class Place : std::uint8_t { recorded, modelled };

/// With recorded addresses `differences` names every event, final figure and final block (size,
/// state, requested size, stale ones too) that differs; with modelled ones it is empty.
[[nodiscard]] RecordedReplay replay_recording(const Trace& trace, Place addresses);

/// tests/data of the source tree.
[[nodiscard]] std::string data_folder();
/// PEAKCAST_GROUNDTRUTH, or ../shared/groundtruth beside the source tree; nothing when neither is
/// there.
[[nodiscard]] std::optional<std::string> groundtruth_folder();
/// *.csv.zst of a folder, in name order, with its path.
[[nodiscard]] std::vector<std::string> recordings_in(const std::string& folder);

}  // namespace peakcast::support
