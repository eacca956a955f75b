#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/minimalloc_csv.hpp"
#include "sim/trace/validate.hpp"

/// Bytes as a packing problem. What is read is written and read again with as many buffers.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  if (bytes.starts_with("\x1f\x8b") || bytes.starts_with("\x28\xb5")) {
    return 0;  // compressed input is trace_bytes_fuzz's
  }
  auto window = Window::open(open_memory(bytes), "fuzz");
  const auto trace = read_minimalloc_csv(*window);
  if (!trace) {
    return 0;
  }
  check(!first_fault(*trace), "the reader gave back an invalid trace");
  const std::string csv = minimalloc_csv(*trace);
  auto second = Window::open(open_memory(csv), "again");
  const auto again = read_minimalloc_csv(*second);
  check(again.has_value() && again->buffer_slots == trace->buffer_slots,
        "the problem does not come back");
  return 0;
}
