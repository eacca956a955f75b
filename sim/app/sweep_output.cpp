#include "sim/app/sweep_output.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/console.hpp"

namespace peakcast::app {

SweepOutput::SweepOutput(const SweepRows& rows, std::size_t points, std::string file)
    : file_{std::move(file)} {
  if (!file_.empty()) {
    resume(rows, points);
  } else if (const std::string head = rows.head(); !head.empty()) {
    write(head);
  }
}

void SweepOutput::resume(const SweepRows& rows, std::size_t points) {
  std::ifstream stream{file_, std::ios::binary};
  const std::string head = rows.head();
  std::string line;
  std::uintmax_t kept = 0;
  bool headed = head.empty();
  // getline() that stops at the end rather than at a line's end met a line that was cut.
  while (stream && std::getline(stream, line) && !stream.eof()) {
    const bool fits =
        headed ? done_ < points && line.starts_with(rows.prefix(done_)) : line + "\n" == head;
    if (!fits) {
      throw Fault{fmt::format("{}: line {} is not of this grid", file_,
                              done_ + (headed && !head.empty() ? 2 : 1))};
    }
    kept += line.size() + 1;
    if (headed) {
      if (std::string error = rows.error_of(done_, line); !error.empty()) {
        first_error_ = errors_++ == 0 ? std::move(error) : first_error_;
      }
      ++done_;
    }
    headed = true;
  }
  stream.close();
  std::error_code error;
  if (std::filesystem::exists(file_, error)) {
    std::filesystem::resize_file(file_, kept, error);
    if (error) {
      throw Fault{fmt::format("{}: cannot be written: {}", file_, error.message())};
    }
  }
  if (!headed) {
    write(head);
  }
}

void SweepOutput::write(const std::string& line) const {
  if (file_.empty()) {
    write_stdout(line);
    return;
  }
  std::FILE* const stream = std::fopen(file_.c_str(), "ab");
  const bool opened = stream != nullptr;
  const bool written = opened && std::fwrite(line.data(), 1, line.size(), stream) == line.size();
  const bool closed = opened && std::fclose(stream) == 0;
  if (!written || !closed) {
    throw Fault{fmt::format("{}: cannot be written: {}", file_, std::strerror(errno))};
  }
}

}  // namespace peakcast::app
