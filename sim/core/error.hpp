#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "sim/core/check.hpp"

namespace peakcast {

enum class ErrorCode : std::uint8_t { invalid_input, not_found, unsupported, io, closed_pipe };

/// Where in an input. Text: line and column, both from 1 (0: not known). Binary: the byte offset
/// (from 0, -1: not known).
struct InputPosition {
  std::string file{};
  std::int64_t line{};
  std::int64_t column{};
  std::int64_t offset{-1};
};

/// A fault in an input, for a person to read. One sentence, lower case, no full stop.
struct Error {
  ErrorCode code{};
  std::string message{};
  std::optional<InputPosition> at{};
};

/// "file:12:3: message", or "file: byte 4711: message", or the message alone.
[[nodiscard]] std::string to_string(const Error& error);

/// A value or an Error. Keeps to std::expected's names where it can.
template <class T>
class [[nodiscard]] Expected {
 public:
  Expected(T value)
      : state_{std::in_place_index<0>, std::move(value)} {
  }  // NOLINT(*-explicit-*): as std::expected
  Expected(Error error)
      : state_{std::in_place_index<1>, std::move(error)} {
  }  // NOLINT(*-explicit-*): as std::expected
  explicit operator bool() const noexcept { return state_.index() == 0; }
  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  [[nodiscard]] const T& value() const& {
    check(has_value(), "value() of an error");
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T& value() & {
    check(has_value(), "value() of an error");
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T&& value() && {
    check(has_value(), "value() of an error");
    return std::move(*std::get_if<0>(&state_));
  }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }
  [[nodiscard]] const Error& error() const {
    check(!has_value(), "error() of a value");
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<T, Error> state_;
};

/// Success with nothing to say, for Expected<Ok>.
struct Ok {};

[[nodiscard]] inline Error invalid_input(std::string message,
                                         std::optional<InputPosition> at = std::nullopt) {
  return Error{ErrorCode::invalid_input, std::move(message), std::move(at)};
}

}  // namespace peakcast
