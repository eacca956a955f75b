#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace peakcast {

/// Small numbers for things that come and go: the one given back last is the first to be taken
/// again, so that numbers stay few and what lies under them warm. O(1).
class Numbers {
 public:
  std::uint32_t take() {
    if (unused_.empty()) {
      return end_++;
    }
    const std::uint32_t number = unused_.back();
    unused_.pop_back();
    return number;
  }
  /// What take() would give. A number that was never taken counts from now on (end()), unused.
  [[nodiscard]] std::uint32_t peek() {
    if (unused_.empty()) {
      unused_.push_back(end_++);
    }
    return unused_.back();
  }
  /// Precondition: taken, and not given back since.
  void give_back(std::uint32_t number) { unused_.push_back(number); }
  /// All numbers, in use or not, lie below.
  [[nodiscard]] std::uint32_t end() const { return end_; }

 private:
  std::vector<std::uint32_t> unused_{};
  std::uint32_t end_{};
};

/// Things under such numbers. What was given back stays where it lies until its number is taken
/// again: whether a thing is in use is the thing's own to know.
template <class T>
class Slots {
 public:
  std::uint32_t take(T thing = T{}) {
    const std::uint32_t number = numbers_.take();
    if (number == things_.size()) {
      things_.push_back(std::move(thing));
    } else {
      things_[number] = std::move(thing);
    }
    return number;
  }
  void give_back(std::uint32_t number) { numbers_.give_back(number); }

  [[nodiscard]] T& operator[](std::uint32_t number) { return things_[number]; }
  [[nodiscard]] const T& operator[](std::uint32_t number) const { return things_[number]; }
  /// In use or not.
  [[nodiscard]] std::uint32_t size() const { return numbers_.end(); }
  [[nodiscard]] auto begin() { return things_.begin(); }
  [[nodiscard]] auto end() { return things_.end(); }
  [[nodiscard]] auto begin() const { return things_.begin(); }
  [[nodiscard]] auto end() const { return things_.end(); }

 private:
  Numbers numbers_{};
  std::vector<T> things_{};
};

}  // namespace peakcast
