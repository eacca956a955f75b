#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/core/check.hpp"
#include "sim/device/gpu_description.hpp"

/// Bytes as a card's description. One that is taken has memory to hand out.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  const auto gpu = parse_gpu_description(bytes, "fuzz");
  check(!gpu || gpu->spec.total > Bytes{}, "a card without memory");
  return 0;
}
