#pragma once

#include <string_view>

namespace peakcast {

/// Prints `what` with its place and aborts. Never returns.
[[noreturn]] void check_failed(std::string_view what, const char* file, int line);

/// A condition that only a bug of ours can break. On in every build; O(1).
/// (clang-tidy 14 cannot see std::source_location, hence the builtins.)
constexpr void check(bool condition, std::string_view what, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  if (!condition) [[unlikely]] {
    check_failed(what, file, line);
  }
}

}  // namespace peakcast
