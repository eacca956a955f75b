#pragma once

#include <utility>

namespace peakcast::torch {

/// Sets a value until the end of the scope.
template <class T>
class Setting {
 public:
  Setting(T& place, T value) : place_{place}, before_{std::exchange(place, std::move(value))} {}
  ~Setting() { place_ = before_; }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  T& place_;
  T before_;
};

}  // namespace peakcast::torch
