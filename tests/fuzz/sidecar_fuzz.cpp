#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/trace.hpp"

/// Bytes as the JSON beside a recorded CSV. What is read is put into a recording, written and read
/// again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const auto sidecar = parse_sidecar(bytes, "fuzz");
  if (!sidecar) {
    return 0;
  }
  Trace trace;
  trace.recording.emplace();
  trace.recording->alloc_conf = sidecar->alloc_conf;
  trace.recording->limit = sidecar->limit;
  trace.recording->device_total = sidecar->device_total;
  trace.recording->framework = sidecar->framework;
  trace.recording->final_statistics = sidecar->final_statistics;
  const auto again = parse_sidecar(sidecar_json(trace), "again");
  check(again.has_value() && again->alloc_conf == sidecar->alloc_conf &&
            again->limit == sidecar->limit,
        "the sidecar does not come back");
  return 0;
}
