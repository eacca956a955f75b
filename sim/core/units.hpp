#pragma once

#include <chrono>
#include <compare>
#include <cstdint>

#include "sim/core/check.hpp"

namespace peakcast {

/// A count of bytes. Signed, so that a difference is a value; a size is never negative.
/// Arithmetic that overflows is a bug and stops the program.
class Bytes {
 public:
  constexpr Bytes() = default;
  constexpr explicit Bytes(std::int64_t count) : count_{count} {}
  [[nodiscard]] constexpr std::int64_t count() const { return count_; }
  friend constexpr auto operator<=>(Bytes, Bytes) = default;
  friend constexpr Bytes operator+(Bytes a, Bytes b) {
    std::int64_t sum{};
    check(!__builtin_add_overflow(a.count_, b.count_, &sum), "byte count overflows");
    return Bytes{sum};
  }
  friend constexpr Bytes operator-(Bytes a, Bytes b) {
    std::int64_t difference{};
    check(!__builtin_sub_overflow(a.count_, b.count_, &difference), "byte count overflows");
    return Bytes{difference};
  }
  friend constexpr Bytes operator*(Bytes a, std::int64_t factor) {
    std::int64_t product{};
    check(!__builtin_mul_overflow(a.count_, factor, &product), "byte count overflows");
    return Bytes{product};
  }
  friend constexpr Bytes operator*(std::int64_t factor, Bytes a) { return a * factor; }
  constexpr Bytes& operator+=(Bytes other) { return *this = *this + other; }
  constexpr Bytes& operator-=(Bytes other) { return *this = *this - other; }

 private:
  std::int64_t count_{};
};

/// `size` rounded up to a multiple of `unit`. Precondition: size >= 0, unit > 0.
[[nodiscard]] constexpr Bytes round_up(Bytes size, Bytes unit) {
  const std::int64_t units =
      size.count() / unit.count() + (size.count() % unit.count() == 0 ? 0 : 1);
  return unit * units;
}

/// A place in an address space: a device pointer, recorded or modelled. Ordered, unlike a pointer.
class Address {
 public:
  constexpr Address() = default;
  constexpr explicit Address(std::uint64_t value) : value_{value} {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(Address, Address) = default;
  friend constexpr Address operator+(Address a, Bytes b) {
    return Address{a.value_ + static_cast<std::uint64_t>(b.count())};
  }
  friend constexpr Bytes operator-(Address a, Address b) {
    return Bytes{static_cast<std::int64_t>(a.value_ - b.value_)};
  }

 private:
  std::uint64_t value_{};
};

/// Simulated time. There is no now(): only the engine moves it, so nobody reads a wall clock by
/// accident.
struct SimClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<SimClock>;
  static constexpr bool is_steady = true;  // NOLINT(readability-identifier-naming): chrono's word
};
using SimTime = SimClock::time_point;
using SimDuration = SimClock::duration;

/// A dense index that cannot be mixed with another kind's. Ordered by value, never by address.
template <class Tag>
struct Id {
  std::uint32_t value{};
  friend constexpr auto operator<=>(Id, Id) = default;
};
using BlockId = Id<struct BlockTag>;  ///< what an allocator handed out; an index of that allocator
using BufferId = Id<struct BufferTag>;  ///< a tensor's storage, named by the trace
using StreamId = Id<struct StreamTag>;  ///< index into the trace's stream table; 0 is the default
using EventId = Id<struct EventTag>;    ///< a point in a stream's order

namespace literals {
consteval Bytes operator""_B(unsigned long long count) {
  return Bytes{static_cast<std::int64_t>(count)};
}
consteval Bytes operator""_KiB(unsigned long long count) {
  return Bytes{static_cast<std::int64_t>(count) << 10};
}
consteval Bytes operator""_MiB(unsigned long long count) {
  return Bytes{static_cast<std::int64_t>(count) << 20};
}
consteval Bytes operator""_GiB(unsigned long long count) {
  return Bytes{static_cast<std::int64_t>(count) << 30};
}
}  // namespace literals

}  // namespace peakcast
