#include "sim/report/timeline.hpp"

#include <array>
#include <ostream>

#include "sim/core/check.hpp"

namespace peakcast {

TimelineWriter::TimelineWriter(std::ostream& out, std::string_view name) : out_{out} {
  out_ << "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[";
  process(0, name);
}

void TimelineWriter::process(std::uint32_t id, std::string_view name) {
  process_ = id;
  begin_event('M', "process_name");
  out_ << ",\"args\":{\"name\":";
  text(name);
  out_ << "}}";
}

TimelineWriter::~TimelineWriter() { finish(); }

void TimelineWriter::finish() {
  if (!finished_) {
    finished_ = true;
    out_ << "\n]}\n";
  }
}

void TimelineWriter::begin_event(char phase, std::string_view name) {
  check(!finished_, "nothing follows the end of a timeline");
  out_ << (first_ ? "\n" : ",\n") << "{\"ph\":\"" << phase << "\",\"pid\":" << process_
       << ",\"name\":";
  first_ = false;
  text(name);
}

void TimelineWriter::time(std::string_view key, std::int64_t nanoseconds) {
  const std::int64_t rest = nanoseconds % 1000;
  const std::array<char, 3> decimals{static_cast<char>('0' + rest / 100),
                                     static_cast<char>('0' + rest / 10 % 10),
                                     static_cast<char>('0' + rest % 10)};
  out_ << ",\"" << key << "\":" << nanoseconds / 1000 << '.';
  out_.write(decimals.data(), static_cast<std::streamsize>(decimals.size()));
}

void TimelineWriter::text(std::string_view value) {
  constexpr std::string_view kHex{"0123456789abcdef"};
  out_ << '"';
  for (const char character : value) {
    const auto code = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      out_ << '\\' << character;
    } else if (code < 0x20) {
      out_ << "\\u00" << kHex[code / 16] << kHex[code % 16];
    } else {
      out_ << character;
    }
  }
  out_ << '"';
}

void TimelineWriter::track(std::uint32_t track, std::string_view name) {
  begin_event('M', "thread_name");
  out_ << ",\"tid\":" << track << ",\"args\":{\"name\":";
  text(name);
  out_ << "}}";
  begin_event('M', "thread_sort_index");
  out_ << ",\"tid\":" << track << ",\"args\":{\"sort_index\":" << track << "}}";
}

void TimelineWriter::slice(std::uint32_t track, std::string_view name, std::string_view category,
                           SimTime begin, SimTime end) {
  begin_event('X', name);
  out_ << ",\"cat\":";
  text(category);
  out_ << ",\"tid\":" << track;
  time("ts", begin.time_since_epoch().count());
  time("dur", (end - begin).count());
  out_ << '}';
}

void TimelineWriter::counter(
    std::string_view name, SimTime at,
    std::initializer_list<std::pair<std::string_view, std::int64_t>> series) {
  begin_event('C', name);
  time("ts", at.time_since_epoch().count());
  out_ << ",\"args\":{";
  bool first = true;
  for (const auto& [key, value] : series) {
    out_ << (first ? "" : ",");
    first = false;
    text(key);
    out_ << ':' << value;
  }
  out_ << "}}";
}

void TimelineWriter::instant(std::uint32_t track, std::string_view name, SimTime at) {
  begin_event('i', name);
  out_ << ",\"s\":\"g\",\"tid\":" << track;
  time("ts", at.time_since_epoch().count());
  out_ << '}';
}

}  // namespace peakcast
