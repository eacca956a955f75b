#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/trace/native_format.hpp"
#include "sim/trace/validate.hpp"

/// Bytes as the own format, with its first bytes put in place and checksums off, for no fuzzer
/// guesses them. What is read is written and read again as the same.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  constexpr NativeOptions kOptions{.checksums = false, .most_memory = Bytes{1 << 26}};
  std::string file{kNativeMagic};
  file.append(bytes);
  const auto trace = read_native(file, "fuzz", kOptions);
  if (!trace) {
    return 0;
  }
  check(!first_fault(*trace), "the reader gave back an invalid trace");
  const auto again = read_native(native_bytes(*trace), "again");
  check(again.has_value() && *again == *trace, "the own format does not come back");
  return 0;
}
