#pragma once

#include <optional>
#include <string>

#include "sim/core/error.hpp"
#include "sim/trace/stream_table.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What stands beside a recorded CSV and says how it was recorded.
struct Sidecar {
  std::string alloc_conf{};
  std::optional<Bytes> limit{};
  std::optional<Bytes> device_total{};
  std::string framework{};  ///< "2.11.0+cu130", or ""
  std::vector<RecordedFigure> final_statistics{};
  /// The final snapshot; `stream` holds an index into `handles`.
  std::vector<RecordedSegment> segments{};
  std::vector<std::uint64_t> handles{};
  bool tells_kinds{};  ///< the segments' pools and whether they are expandable; else that is
                       ///< found out by apply_sidecar()
  struct Mark {
    std::int64_t time_us{};
    std::string name{};
  };
  std::vector<Mark> marks{};
};

/// What reading one may take.
inline constexpr Bytes kMostSidecarMemory{std::int64_t{1} << 30};

/// "run.json" for "run.csv", "run.csv.gz" and "run.csv.zst"; empty for any other name.
[[nodiscard]] std::string sidecar_path(const std::string& trace_path);

/// Keys read, all optional: `settings`.`PYTORCH_CUDA_ALLOC_CONF` or `alloc_conf` (a string),
/// `allowed_bytes` (the allocator's limit; null is none), `device`.`total_memory` or
/// `total_memory`, `torch`, `final` (name -> integer), `segments` ([{address, total_size, stream,
/// blocks: [[size, requested, state]]}]), `marks` ([[time in µs, name]]). Other keys are not looked
/// at; a key of a wrong type is an error that names the file and the key.
[[nodiscard]] Expected<Sidecar> parse_sidecar(std::string_view json, const std::string& name);

/// Puts a sidecar's settings, figures and segments into a trace's recording; its streams join
/// `streams`. False: there are too many streams.
[[nodiscard]] bool apply_sidecar(Trace& trace, const Sidecar& sidecar, StreamTable& streams);

/// Inserts marks before the first op at or after their time: `iterN` and `ProfilerStep#N` are
/// iterations, others are phases. Nothing happens without times. O(ops).
void insert_marks(Trace& trace, const std::vector<Sidecar::Mark>& marks);

/// What a CSV cannot hold, as such a file: settings, limit, card, figures, segments and marks.
[[nodiscard]] std::string sidecar_json(const Trace& trace);

}  // namespace peakcast
