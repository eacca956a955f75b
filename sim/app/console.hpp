#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace peakcast::app {

enum class Format : std::uint8_t { text, json, csv };

/// The flags that every command has.
struct Console {
  Format format{};
  bool quiet{};
  bool verbose{};

  /// A line for people on stderr, unless -q.
  void note(std::string_view line) const;
  /// A line on stderr, with -v only.
  void detail(std::string_view line) const;
  /// A warning on stderr, -q or not.
  void warn(std::string_view line) const;
};

/// Takes what this thread writes to stdout and stderr for as long as it lives, and holds what the
/// file "-" is: for a host that calls commands as functions (the Python package). One a thread.
class Capture {
 public:
  struct Options {
    std::optional<std::string> input{};  ///< none: stdin as always
    /// Where progress bars go; none: nowhere. Called with a label, what is done and of how much.
    std::function<void(std::string_view, std::int64_t, std::int64_t)> progress{};
  };
  explicit Capture(Options options);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  [[nodiscard]] std::string take_out() { return std::move(out_); }
  [[nodiscard]] std::string take_notes() { return std::move(notes_); }

 private:
  friend void write_stdout(std::string_view text);
  friend void write_stderr(std::string_view text);
  friend class Progress;
  friend const std::string* captured_input();
  Options options_;
  std::string out_{};
  std::string notes_{};
};

/// What "-" holds where a host gave it; null: it is stdin.
[[nodiscard]] const std::string* captured_input();

/// `text` for stdout with its verdicts coloured, if stdout is a terminal that takes colours and
/// NO_COLOR is not set (no-color.org); else as it is.
[[nodiscard]] std::string coloured(std::string text);

/// Results. A write that fails (a full disk) throws; a closed pipe ends quietly, as in `| head`.
void write_stdout(std::string_view text);
void write_stderr(std::string_view text);
/// "peakcast: error: MESSAGE" in one line on stderr: what an input put into the message is escaped
/// where it would move the cursor or the line, and cut where it is long.
void write_error(std::string_view message, std::string_view program = "peakcast");

/// A bar on stderr that redraws itself; draws nothing unless stderr is a terminal and -q was not
/// given, nor within the first half second. The clock decides what a terminal shows meanwhile,
/// never a result.
class Progress {
 public:
  Progress(const Console& console, std::string label);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();
  void advance_to(std::size_t done, std::size_t total);

 private:
  std::string label_;
  Capture* host_;  ///< of the thread that made it; null for a program of its own
  std::chrono::steady_clock::time_point began_;
  std::size_t percent_{101};
  bool draws_;
  bool drawn_{};
};

}  // namespace peakcast::app
