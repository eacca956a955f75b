#include "sim/trace/read_trace.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <utility>

#include "sim/trace/json_document.hpp"
#include "sim/trace/minimalloc_csv.hpp"
#include "sim/trace/native_format.hpp"
#include "sim/trace/pickle.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/rmm_log.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/snapshot.hpp"

namespace peakcast {
namespace {

std::optional<TraceFormat> recognise(std::string_view head) {
  if (head.starts_with(kNativeMagic.substr(0, 4))) {
    return TraceFormat::native;  // by its first half: the second shows what a transfer broke
  }
  // Protocols 2 and up say which they are; 0 and 1 begin with a mark, a dict or a list.
  if ((head.size() >= 2 && head[0] == '\x80' && head[1] >= 0 && head[1] <= 16) ||
      (!head.empty() && std::string_view{"(}]"}.find(head[0]) != std::string_view::npos)) {
    return TraceFormat::snapshot_pickle;
  }
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && (head[first] == '{' || head[first] == '[')) {
    return TraceFormat::snapshot_json;
  }
  std::string_view line = head.substr(0, head.find('\n'));
  if (line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  if (line.starts_with("Thread,Time,Action,")) {
    return TraceFormat::rmm_log;
  }
  if (is_minimalloc_header(line)) {
    return TraceFormat::minimalloc_csv;
  }
  if (action_from(line.substr(0, line.find(',')))) {
    return TraceFormat::recorded_csv;
  }
  return std::nullopt;
}

/// Empty when there is no such file.
Expected<std::optional<Sidecar>> read_sidecar(const std::string& path) {
  struct stat status {};
  if (path.empty() || ::lstat(path.c_str(), &status) != 0) {
    return std::optional<Sidecar>{};
  }
  auto file = open_file(path);
  if (!file) {
    return file.error();
  }
  auto window = Window::open(std::move(file).value(), path, kMostSidecarMemory);
  if (!window) {
    return window.error();
  }
  const auto filled = window->fill_all();
  if (!filled) {
    return filled.error();
  }
  auto sidecar = parse_sidecar(window->bytes(), path);
  if (!sidecar) {
    return sidecar.error();
  }
  return std::optional<Sidecar>{std::move(sidecar).value()};
}

Expected<Trace> read_document(Window& window, TraceFormat format, const ReadOptions& options,
                              std::vector<std::string>& notes) {
  const auto filled = window.fill_all();
  if (!filled) {
    return filled.error();
  }
  if (format == TraceFormat::native) {
    return read_native(window.bytes(), window.name(),
                       {.checksums = options.checksums, .most_memory = window.most_memory()});
  }
  const auto document =
      format == TraceFormat::snapshot_pickle
          ? read_pickle(window.bytes(), window.name(), window.most_memory())
          : read_json_document(window.bytes(), window.name(), window.most_memory());
  if (!document) {
    return document.error();
  }
  return trace_of_snapshot(*document, window.name(), options.device, notes);
}

Expected<LoadedTrace> read_window(Window& window, const std::string& sidecar_file,
                                  const ReadOptions& options) {
  constexpr std::size_t kHead = 4096;
  const auto filled = window.fill(kHead);
  if (!filled) {
    return filled.error();
  }
  if (window.bytes().empty()) {
    return invalid_input("the file is empty", InputPosition{window.name()});
  }
  // Windows programs begin a text with a byte order mark.
  constexpr std::string_view kByteOrderMark{"\xef\xbb\xbf"};
  if (window.bytes().starts_with(kByteOrderMark)) {
    window.skip(kByteOrderMark.size());
  }
  const auto format = recognise(window.bytes());
  if (!format) {
    return invalid_input(
        "this is no trace that is known: a recorded-allocator CSV, a PyTorch snapshot (pickle or "
        "JSON), an RMM log, a minimalloc CSV or peakcast's own format is needed",
        InputPosition{window.name(), 1});
  }
  LoadedTrace loaded;
  loaded.format = *format;
  const auto read = [&]() -> Expected<Trace> {
    switch (*format) {
      case TraceFormat::recorded_csv: {
        const auto sidecar = read_sidecar(sidecar_file);
        if (!sidecar) {
          return sidecar.error();
        }
        loaded.sidecar = *sidecar ? sidecar_file : "";
        return read_recorded_csv(window, *sidecar ? &**sidecar : nullptr);
      }
      case TraceFormat::rmm_log:
        return read_rmm_log(window);
      case TraceFormat::minimalloc_csv:
        return read_minimalloc_csv(window);
      case TraceFormat::native:
      case TraceFormat::snapshot_pickle:
      case TraceFormat::snapshot_json:
        break;
    }
    return read_document(window, *format, options, loaded.notes);
  };
  auto trace = read();
  if (!trace) {
    return trace.error();
  }
  loaded.trace = std::move(trace).value();
  if (loaded.trace.source.empty()) {
    // Without its folder: the same file gives the same bytes, wherever it lies.
    loaded.trace.source = window.name().substr(window.name().rfind('/') + 1);
  }
  return loaded;
}

}  // namespace

std::string_view to_string(TraceFormat format) {
  switch (format) {
    case TraceFormat::native:
      return "pkt";
    case TraceFormat::recorded_csv:
      return "csv";
    case TraceFormat::snapshot_pickle:
      return "pickle";
    case TraceFormat::snapshot_json:
      return "json";
    case TraceFormat::rmm_log:
      return "rmm";
    case TraceFormat::minimalloc_csv:
      return "minimalloc";
  }
  return "";
}

Expected<LoadedTrace> read_trace(const std::string& path, const ReadOptions& options) {
  auto source = open_file(path);
  if (!source) {
    return source.error();
  }
  auto window =
      Window::open(std::move(source).value(), path == "-" ? "<stdin>" : path, options.max_memory);
  if (!window) {
    return window.error();
  }
  return read_window(*window, options.sidecar ? sidecar_path(path) : "", options);
}

Expected<LoadedTrace> read_trace_bytes(std::string_view bytes, const std::string& name,
                                       const ReadOptions& options) {
  auto window = Window::open(open_memory(bytes), name, options.max_memory);
  if (!window) {
    return window.error();
  }
  return read_window(*window, "", options);
}

}  // namespace peakcast
