#include "sim/app/console.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <unistd.h>
#include <utility>

#include "sim/app/command.hpp"

namespace peakcast::app {

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

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    if (errno == EPIPE) {
      std::_Exit(kFits);
    }
    throw Fault{std::string{"cannot write to stdout: "} + std::strerror(errno)};
  }
}

void write_stderr(std::string_view text) {
  // Where this fails there is nowhere left to tell it.
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr));
}

Progress::Progress(const Console& console, std::string label, std::int64_t total)
    : label_{std::move(label)},
      total_{total},
      draws_{!console.quiet && ::isatty(STDERR_FILENO) == 1} {
  advance_to(0);
}

Progress::~Progress() {
  if (draws_) {
    write_stderr("\r\033[K");
  }
}

void Progress::advance_to(std::int64_t done) {
  if (!draws_) {
    return;
  }
  const std::int64_t percent = total_ > 0 ? done * 100 / total_ : 100;
  if (percent == percent_) {
    return;
  }
  percent_ = percent;
  constexpr std::int64_t kWidth = 40;
  const auto filled = static_cast<std::size_t>(kWidth * percent / 100);
  write_stderr("\r" + label_ + " [" + std::string(filled, '#') +
               std::string(static_cast<std::size_t>(kWidth) - filled, ' ') + "] " +
               std::to_string(percent) + " %");
}

}  // namespace peakcast::app
