#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "sim/core/check.hpp"

namespace peakcast::torch {

/// Sizes or strides of a tensor, in elements. At most eight dimensions; no allocation.
class Shape {
 public:
  static constexpr std::size_t kMaxDims = 8;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> values) {
    for (const std::int64_t value : values) {
      push_back(value);
    }
  }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] std::int64_t operator[](std::size_t i) const { return values_[i]; }
  [[nodiscard]] std::int64_t& operator[](std::size_t i) { return values_[i]; }
  [[nodiscard]] const std::int64_t* begin() const { return values_.data(); }
  [[nodiscard]] const std::int64_t* end() const { return values_.data() + count_; }
  [[nodiscard]] std::int64_t back() const { return values_[count_ - 1]; }
  void push_back(std::int64_t value) {
    check(count_ < kMaxDims, "a tensor has at most eight dimensions");
    values_[count_++] = value;
  }
  void insert(std::size_t at, std::int64_t value) {
    push_back(value);
    std::rotate(values_.data() + at, values_.data() + count_ - 1, values_.data() + count_);
  }
  void erase(std::size_t at) {
    std::rotate(values_.data() + at, values_.data() + at + 1, values_.data() + count_);
    --count_;
  }
  /// Product of the sizes; overflow stops the program.
  [[nodiscard]] std::int64_t numel() const {
    std::int64_t product = 1;
    for (const std::int64_t value : *this) {
      check(!__builtin_mul_overflow(product, value, &product), "element count overflows");
    }
    return product;
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::array<std::int64_t, kMaxDims> values_{};
  std::uint8_t count_{};
};

/// Row-major strides of `sizes`.
[[nodiscard]] Shape contiguous_strides(const Shape& sizes);
/// torch.broadcast_shapes of two.
[[nodiscard]] Shape broadcast(const Shape& a, const Shape& b);

}  // namespace peakcast::torch
