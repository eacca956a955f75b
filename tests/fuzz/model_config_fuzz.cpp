#include <cstddef>
#include <cstdint>
#include <string_view>

#include "workloads/model_config.hpp"

/// Bytes as a Hugging Face config.json.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  static_cast<void>(parse_model_config(bytes, "fuzz"));
  return 0;
}
