#include "sim/app/load_trace.hpp"

#include "sim/app/command.hpp"
#include "sim/app/console.hpp"

namespace peakcast::app {

LoadedTrace load_trace(const std::string& path, const ReadOptions& options) {
  if (const std::string* given = path == "-" ? captured_input() : nullptr) {
    return value_or_throw(read_trace_bytes(*given, "<input>", options));
  }
  return value_or_throw(read_trace(path, options));
}

}  // namespace peakcast::app
