#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/check.hpp"
#include "sim/trace/json_document.hpp"
#include "sim/trace/snapshot.hpp"
#include "sim/trace/validate.hpp"

/// Bytes as a snapshot in JSON.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const auto document = read_json_document(bytes, "fuzz", Bytes{1 << 26});
  if (!document) {
    return 0;
  }
  std::vector<std::string> notes;
  const auto trace = trace_of_snapshot(*document, "fuzz", 0, notes);
  check(!trace || !first_fault(*trace), "the reader gave back an invalid trace");
  return 0;
}
