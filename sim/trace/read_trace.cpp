#include "sim/trace/read_trace.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <utility>

#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/sidecar.hpp"

namespace peakcast {
namespace {

std::optional<TraceFormat> recognise(std::string_view head) {
  const std::string_view line = head.substr(0, head.find('\n'));
  if (action_from(line.substr(0, line.find(',')))) {
    return TraceFormat::recorded_csv;
  }
  return std::nullopt;
}

/// Empty when there is no such file.
Expected<std::optional<Sidecar>> read_sidecar(const std::string& path) {
  struct stat status {};
  if (path.empty() || ::stat(path.c_str(), &status) != 0) {
    return std::optional<Sidecar>{};
  }
  auto file = open_file(path);
  if (!file) {
    return file.error();
  }
  auto window = Window::open(std::move(file).value(), path);
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

Expected<LoadedTrace> read_window(Window& window, const std::string& sidecar_file) {
  constexpr std::size_t kHead = 4096;
  const auto filled = window.fill(kHead);
  if (!filled) {
    return filled.error();
  }
  if (window.bytes().empty()) {
    return invalid_input("the file is empty", InputPosition{window.name()});
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
      case TraceFormat::native:
        break;
    }
    return invalid_input("no reader");
  };
  auto trace = read();
  if (!trace) {
    return trace.error();
  }
  loaded.trace = std::move(trace).value();
  loaded.trace.source = window.name();
  return loaded;
}

}  // namespace

std::string_view to_string(TraceFormat format) {
  switch (format) {
    case TraceFormat::native:
      return "native";
    case TraceFormat::recorded_csv:
      return "csv";
  }
  return "";
}

Expected<LoadedTrace> read_trace(const std::string& path, const ReadOptions& options) {
  auto source = open_file(path);
  if (!source) {
    return source.error();
  }
  auto window =
      Window::open(std::move(source).value(), path == "-" ? "<stdin>" : path, options.limit);
  if (!window) {
    return window.error();
  }
  return read_window(*window, options.sidecar ? sidecar_path(path) : "");
}

Expected<LoadedTrace> read_trace_bytes(std::string_view bytes, const std::string& name,
                                       const ReadOptions& options) {
  auto window = Window::open(open_memory(bytes), name, options.limit);
  if (!window) {
    return window.error();
  }
  return read_window(*window, "");
}

}  // namespace peakcast
