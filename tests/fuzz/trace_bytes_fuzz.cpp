#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/validate.hpp"

/// Any bytes through the recognition and whatever reader they choose: text formats, snapshots, the
/// own format (checksums off, for no fuzzer guesses one), compressed or not. What a reader takes
/// must be a trace that a replay can run.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const peakcast::ReadOptions options{.max_memory = peakcast::Bytes{1 << 26}, .checksums = false};
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const auto loaded = peakcast::read_trace_bytes(bytes, "fuzz", options);
  if (loaded) {
    peakcast::check(!peakcast::first_fault(loaded->trace), "a reader gave back an invalid trace");
    static_cast<void>(peakcast::findings(loaded->trace, 4));
  }
  return 0;
}
