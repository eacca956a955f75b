#include "sim/app/console.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unistd.h>
#include <utility>

#include "sim/app/command.hpp"
#include "sim/app/host.hpp"
#include "sim/core/check.hpp"

namespace peakcast::app {
namespace {

/// This thread's, or null: only where output goes, never what it says, depends on it.
thread_local Capture* current_capture = nullptr;
/// Threads may share a capture.
std::mutex writing;

}  // namespace

Capture::Capture(Options options) : options_{std::move(options)} {
  check(current_capture == nullptr, "one capture a thread");
  current_capture = this;
}
Capture::~Capture() { current_capture = nullptr; }

Capture* host_capture() { return current_capture; }

SharedCapture::SharedCapture(Capture* of_caller) { current_capture = of_caller; }
SharedCapture::~SharedCapture() { current_capture = nullptr; }

const std::string* captured_input() {
  return current_capture != nullptr && current_capture->options_.input
             ? &*current_capture->options_.input
             : nullptr;
}

void Console::note(std::string_view line) const {
  if (!quiet) {
    write_stderr(std::string{line} + "\n");
  }
}

void Console::detail(std::string_view line) const {
  if (verbose && !quiet) {
    write_stderr(std::string{line} + "\n");
  }
}

void Console::warn(std::string_view line) const {
  write_stderr("peakcast: warning: " + std::string{line} + "\n");
}

std::string coloured(std::string text) {
  const char* const refused = std::getenv("NO_COLOR");
  const char* const terminal = std::getenv("TERM");
  if (current_capture != nullptr || ::isatty(STDOUT_FILENO) != 1 ||
      (refused != nullptr && *refused != '\0') || terminal == nullptr ||
      std::string_view{terminal} == "dumb") {
    return text;
  }
  // Bold green, yellow and red; a table's columns stay where they are, for these take no width.
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kColours{
      {{"FITS", "\033[1;32m"}, {"TIGHT", "\033[1;33m"}, {"OUT OF MEMORY", "\033[1;31m"}}};
  constexpr std::string_view kPlain = "\033[0m";
  for (const auto& [verdict, colour] : kColours) {
    for (std::size_t at = text.find(verdict); at != std::string::npos;
         at = text.find(verdict, at + colour.size() + verdict.size() + kPlain.size())) {
      text.insert(at + verdict.size(), kPlain);
      text.insert(at, colour);
    }
  }
  return text;
}

void write_stdout(std::string_view text) {
  if (current_capture != nullptr) {
    const std::lock_guard lock{writing};
    current_capture->out_.append(text);
    return;
  }
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    if (errno == EPIPE) {
      std::_Exit(kFits);
    }
    throw Fault{std::string{"cannot write to stdout: "} + std::strerror(errno)};
  }
}

void write_stderr(std::string_view text) {
  if (current_capture != nullptr) {
    const std::lock_guard lock{writing};
    current_capture->notes_.append(text);
    return;
  }
  // Where this fails there is nowhere left to tell it.
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr));
}

void write_error(std::string_view message, std::string_view program) {
  constexpr std::size_t kLongest = 2000;
  constexpr std::size_t kTail = 400;
  std::string line;
  for (std::size_t i = 0; i < message.size(); ++i) {
    if (message.size() > kLongest && i == kLongest - kTail) {
      line += " [...] ";
      i = message.size() - kTail;
    }
    const auto c = static_cast<unsigned char>(message[i]);
    if (c == '\n') {
      line += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      constexpr std::string_view kDigits{"0123456789abcdef"};
      line += {'\\', 'x', kDigits[c >> 4U], kDigits[c & 15U]};
    } else {
      line += message[i];
    }
  }
  write_stderr(std::string{program} + ": error: " + line + "\n");
}

Progress::Progress(const Console& console, std::string label)
    : label_{std::move(label)},
      host_{current_capture},
      began_{std::chrono::steady_clock::now()},
      draws_{!console.quiet && host_ == nullptr && ::isatty(STDERR_FILENO) == 1} {}

Progress::~Progress() {
  if (drawn_) {
    write_stderr("\r\033[K");
  }
}

void Progress::advance_to(std::size_t done, std::size_t total) {
  if (host_ != nullptr && host_->options_.progress) {
    host_->options_.progress(label_, static_cast<std::int64_t>(done),
                             static_cast<std::int64_t>(total));
    return;
  }
  constexpr std::size_t kHundred = 100;
  const std::size_t percent = total > 0 ? done * kHundred / total : kHundred;
  constexpr std::chrono::milliseconds kShort{500};
  if (!draws_ || percent == percent_ || std::chrono::steady_clock::now() - began_ < kShort) {
    return;
  }
  percent_ = percent;
  drawn_ = true;
  constexpr std::size_t kWidth = 40;
  const std::size_t filled = kWidth * percent / kHundred;
  write_stderr("\r" + label_ + " [" + std::string(filled, '#') + std::string(kWidth - filled, ' ') +
               "] " + std::to_string(percent) + " %");
}

}  // namespace peakcast::app
