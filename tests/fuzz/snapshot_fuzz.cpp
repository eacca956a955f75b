#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/trace/pickle.hpp"
#include "sim/trace/snapshot.hpp"
#include "sim/trace/validate.hpp"

/// Bytes as a pickle, and what a pickle gives as a snapshot. An export of what was read is read
/// again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const auto document = read_pickle(bytes, "fuzz", Bytes{1 << 28});
  if (!document) {
    return 0;
  }
  std::vector<std::string> notes;
  const auto trace = trace_of_snapshot(*document, "fuzz", 0, notes);
  if (!trace) {
    return 0;
  }
  check(!first_fault(*trace), "the reader gave back an invalid trace");
  if (const auto exported = snapshot_pickle(*trace)) {
    const auto second = read_pickle(*exported, "again", Bytes{1 << 28});
    check(second.has_value(), "the exported pickle cannot be read");
    check(trace_of_snapshot(*second, "again", 0, notes).has_value(), "the export is no snapshot");
  }
  return 0;
}
