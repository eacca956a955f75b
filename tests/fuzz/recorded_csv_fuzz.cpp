#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/native_format.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/validate.hpp"

/// Bytes as a recorded CSV. What is read comes out again as it went in, and survives the own
/// format.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  if (bytes.starts_with("\x1f\x8b") || bytes.starts_with("\x28\xb5")) {
    return 0;  // compressed input is the other target's
  }
  auto window = Window::open(open_memory(bytes), "fuzz");
  auto trace = read_recorded_csv(*window);
  if (!trace) {
    return 0;
  }
  check(!first_fault(*trace), "the reader gave back an invalid trace");
  const std::string csv = recorded_csv(*trace->recording, trace->streams, trace->strings);
  auto second = Window::open(open_memory(csv), "again");
  const auto again = read_recorded_csv(*second);
  check(again.has_value() && *again == *trace, "the CSV does not come back");
  const auto native = read_native(native_bytes(*trace), "native");
  check(native.has_value() && *native == *trace, "the own format does not come back");
  return 0;
}
