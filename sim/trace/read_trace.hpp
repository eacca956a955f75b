#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

enum class TraceFormat : std::uint8_t {
  native,           ///< "pkt": peakcast's own (native_format.hpp)
  recorded_csv,     ///< "csv": recorded_csv.hpp
  snapshot_pickle,  ///< "pickle": snapshot.hpp
  snapshot_json,    ///< "json": the same in JSON
  rmm_log,          ///< "rmm": rmm_log.hpp
  minimalloc_csv,   ///< "minimalloc": minimalloc_csv.hpp
};
inline constexpr int kTraceFormatCount = 6;
[[nodiscard]] std::string_view to_string(TraceFormat format);

struct ReadOptions {
  std::optional<Bytes> max_memory{};     ///< none: as much as its size allows, see Window
  std::optional<std::int64_t> device{};  ///< of a snapshot that holds several
  bool checksums{true};                  ///< see NativeOptions
  bool sidecar{true};  ///< read NAME.json beside NAME.csv, .csv.gz and .csv.zst when it is there
};

struct LoadedTrace {
  Trace trace{};
  TraceFormat format{};
  std::string sidecar{};             ///< the file that was read beside it, or ""
  std::vector<std::string> notes{};  ///< what the file holds that was taken for something else
};

/// Reads a trace of any format, recognised by its content; gzip and zstd are seen through. "-" is
/// stdin. Every fault of the file comes back with its line or byte offset.
[[nodiscard]] Expected<LoadedTrace> read_trace(const std::string& path,
                                               const ReadOptions& options = {});
/// The same from memory, without a sidecar; `name` stands in messages.
[[nodiscard]] Expected<LoadedTrace> read_trace_bytes(std::string_view bytes,
                                                     const std::string& name,
                                                     const ReadOptions& options = {});

}  // namespace peakcast
