#pragma once

#include <cstdint>
#include <string_view>

namespace peakcast::torch {

/// Element types, ordered so that promotion within floating types is a table of three rows.
enum class Dtype : std::uint8_t {
  boolean,
  uint8,
  int32,
  int64,
  float16,
  bfloat16,
  float32,
  float64
};

[[nodiscard]] constexpr std::int64_t element_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::boolean:
    case Dtype::uint8:
      return 1;
    case Dtype::float16:
    case Dtype::bfloat16:
      return 2;
    case Dtype::int32:
    case Dtype::float32:
      return 4;
    case Dtype::int64:
    case Dtype::float64:
      return 8;
  }
  return 0;
}
[[nodiscard]] constexpr bool is_floating(Dtype dtype) { return dtype >= Dtype::float16; }
[[nodiscard]] constexpr bool is_half(Dtype dtype) {
  return dtype == Dtype::float16 || dtype == Dtype::bfloat16;
}
[[nodiscard]] std::string_view to_string(Dtype dtype);

/// torch.promote_types for the types above.
[[nodiscard]] constexpr Dtype promote(Dtype a, Dtype b) {
  const bool mixed_halves = (a == Dtype::float16 && b == Dtype::bfloat16) ||
                            (a == Dtype::bfloat16 && b == Dtype::float16);
  return mixed_halves ? Dtype::float32 : (a < b ? b : a);
}

}  // namespace peakcast::torch
