#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace peakcast {

struct ForeignRow;

/// A call into a foreign library, from its first byte on: what is told when it does not come back.
/// Kept in memory that both processes share; in a process that is not supervised, nowhere.
class ForeignCalls {
 public:
  /// Calls of one policy; `name` is cut after 160 bytes. At most 256 policies are followed
  /// at once.
  explicit ForeignCalls(std::string_view name);

  /// Counts a request: what is told of later calls names it.
  void begin_request(std::uint64_t bytes);

  /// While it lives, `function` (a literal) of the library runs.
  class Call {
   public:
    Call(const ForeignCalls& calls, const char* function);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    ForeignRow* row_;
  };
  /// What the library did wrong where no answer can tell it (in its end): the run fails with it.
  void set_late_fault(std::string_view what) const;

 private:
  ForeignRow* row_{};
};

/// How a supervised run ended.
struct ForeignRun {
  int status{};                          ///< what `run` gave, if it came to that
  std::string output{};                  ///< what it wrote to stdout
  std::optional<std::string> failure{};  ///< how it ended instead: policy, request and cause
};

/// The longest that one call of a foreign library may take, on the wall's clock.
inline constexpr std::chrono::seconds kLongestForeignCall{20};

/// Runs `run` in a process of its own, because it calls a foreign library: that may end it (exit,
/// _exit, a crash), or never come back. Its stdout is kept until it has ended well. The library is
/// the same code in the same memory as the simulator's, so a call costs what it costs anyway, and
/// two stores. Call it before any thread is started.
[[nodiscard]] ForeignRun run_supervised(const std::function<int()>& run);

}  // namespace peakcast
