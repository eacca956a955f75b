#include "workloads/capture/log_writer.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace peakcast::capture {
namespace {

/// How much of the file is mapped at a time.
constexpr std::size_t kWindowBytes = std::size_t{4} << 20;
constexpr std::size_t kWindowRecords = kWindowBytes / sizeof(Record);

}  // namespace

std::uint8_t LogWriter::thread_number() {
  static std::atomic<int> threads{0};
  thread_local const int number = threads++;
  return static_cast<std::uint8_t>(std::min(number, 255));
}

void LogWriter::grow() {
  if (window_ != nullptr) {
    munmap(window_, kWindowBytes);
    offset_ += static_cast<std::int64_t>(kWindowBytes);
    window_ = nullptr;
  }
  used_ = 0;
  void* mapped = MAP_FAILED;
  if (ftruncate(file_, offset_ + static_cast<std::int64_t>(kWindowBytes)) == 0) {
    mapped = mmap(nullptr, kWindowBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, offset_);
  }
  if (mapped == MAP_FAILED) {
    std::perror("peakcast capture: the log cannot grow");
    std::_Exit(2);
  }
  window_ = static_cast<Record*>(mapped);
}

void LogWriter::begin() {
  const std::string path = directory_ + "/" + std::to_string(getpid()) + ".log";
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file_ < 0) {
    std::perror(("peakcast capture: " + path).c_str());
    std::_Exit(2);
  }
  grow();
  LogHead head;
  head.process = getpid();
  head.total = total_;
  if (const char* const rank = std::getenv("RANK")) {
    head.rank = std::strtoll(rank, nullptr, 10);
  }
  std::memcpy(static_cast<void*>(window_), &head, sizeof head);
  used_ = 1;
}

Record* LogWriter::next() {
  if (file_ < 0) {
    begin();
  } else if (used_ == kWindowRecords) {
    grow();
  }
  return &window_[used_++];
}

void LogWriter::write(Record record) {
  if (!is_on()) {
    return;
  }
  record.thread = thread_number();
  *next() = record;
}

std::uint32_t LogWriter::string(std::string_view text) {
  if (!is_on()) {
    return 0;
  }
  const auto [at, added] =
      strings_.emplace(std::string{text}, static_cast<std::uint32_t>(strings_.size()));
  if (added) {
    write({.value = static_cast<std::int64_t>(text.size()),
           .id = at->second,
           .kind = RecordKind::text});
    for (std::size_t begin = 0; begin < text.size(); begin += sizeof(Record)) {
      std::memcpy(static_cast<void*>(next()), text.data() + begin,
                  std::min(sizeof(Record), text.size() - begin));
    }
  }
  return at->second;
}

void LogWriter::forked() {
  if (window_ != nullptr) {
    munmap(window_, kWindowBytes);
    close(file_);
  }
  window_ = nullptr;
  file_ = -1;
  offset_ = 0;
  used_ = 0;
  strings_.clear();
}

}  // namespace peakcast::capture
