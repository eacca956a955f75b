#include "sim/trace/rmm_log.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/nearest.hpp"
#include "sim/core/slots.hpp"
#include "sim/trace/address_map.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/recording_of.hpp"
#include "sim/trace/stream_table.hpp"
#include "sim/trace/text_fields.hpp"

namespace peakcast {
namespace {

constexpr std::string_view kHeader = "Thread,Time,Action,Pointer,Size,Stream";
constexpr std::int64_t kDayUs = std::int64_t{24} * 3600 * 1'000'000;

std::optional<std::int64_t> parse_clock(std::string_view word) {
  // HH:MM:SS, then '.' or ':' and up to six digits.
  if (word.size() < 9 || word[2] != ':' || word[5] != ':' || (word[8] != '.' && word[8] != ':') ||
      word.size() > 15) {
    return std::nullopt;
  }
  std::int64_t hours{};
  std::int64_t minutes{};
  std::int64_t seconds{};
  std::int64_t part{};
  if (!parse_decimal(word.substr(0, 2), hours) || !parse_decimal(word.substr(3, 2), minutes) ||
      !parse_decimal(word.substr(6, 2), seconds) || !parse_decimal(word.substr(9), part) ||
      hours > 23 || minutes > 59 || seconds > 60) {
    return std::nullopt;
  }
  for (std::size_t digits = word.size() - 9; digits < 6; ++digits) {
    part *= 10;
  }
  return ((hours * 60 + minutes) * 60 + seconds) * 1'000'000 + part;
}

bool parse_handle(std::string_view word, std::uint64_t& value) {
  return parse_hex(word.starts_with("0x") ? word.substr(2) : word, value);
}

class Reader {
 public:
  explicit Reader(Window& window) : lines_{window} {}

  Expected<Trace> read() {
    std::string_view line;
    auto more = lines_.next(line);
    if (!more) {
      return more.error();
    }
    if (!*more || line != kHeader) {
      return lines_.error(fmt::format("the header {} is needed", kHeader));
    }
    for (;;) {
      more = lines_.next(line);
      if (!more) {
        return more.error();
      }
      if (!*more) {
        break;
      }
      if (auto fault = read_line(line)) {
        return *std::move(fault);
      }
    }
    std::vector<StreamId> names;
    trace_.streams = streams_.take(names);
    for (Op& op : trace_.ops) {
      op.stream = static_cast<std::uint16_t>(names[op.stream].value);
    }
    return std::move(trace_);
  }

 private:
  std::optional<Error> read_line(std::string_view line) {
    std::string_view rest = line;
    std::array<std::string_view, 6> words;
    for (std::size_t i = 0; i < 5; ++i) {
      if (!take_word(rest, words.at(i))) {
        return lines_.error("six columns are needed");
      }
    }
    words[5] = rest;
    const auto column = [&](std::size_t i) { return words.at(i).data() - line.data() + 1; };
    const auto& [thread, time_word, action, pointer_word, size_word, stream_word] = words;
    std::int64_t number{};
    if (!parse_decimal(thread, number)) {
      return lines_.error("thread " + quoted(thread) + " is not a whole number", column(0));
    }
    const auto time = parse_clock(time_word);
    if (!time) {
      return lines_.error("time " + quoted(time_word) + " is not HH:MM:SS.ffffff", column(1));
    }
    std::uint64_t pointer = 0;
    if (pointer_word != "(nil)" &&
        (!pointer_word.starts_with("0x") || !parse_hex(pointer_word.substr(2), pointer))) {
      return lines_.error("pointer " + quoted(pointer_word) + " is not 0x... or (nil)", column(3));
    }
    std::int64_t size{};
    if (!parse_decimal(size_word, size) || size > kLargestSize) {
      return lines_.error("size " + quoted(size_word) + " is not a number of bytes up to 256 TiB",
                          column(4));
    }
    std::uint64_t handle{};
    if (!parse_handle(stream_word, handle)) {
      return lines_.error("stream " + quoted(stream_word) + " is not a hex number", column(5));
    }
    const auto stream = streams_.id(handle);
    if (!stream) {
      return lines_.error("stream " + quoted(stream_word) + " is one too many, or reserved",
                          column(5));
    }
    static constexpr std::array<std::string_view, 3> kActions{"allocate", "free",
                                                              "allocate failure"};
    if (std::find(kActions.begin(), kActions.end(), action) == kActions.end()) {
      return lines_.error(unknown_word("action", action, kActions), column(2));
    }
    if (size == 0) {
      return std::nullopt;
    }
    if (trace_.ops.size() >= kNoEvent) {
      return lines_.error("more rows than 2^32");
    }
    if ((sum_ += action == "free" ? 0 : size) > kLargestSum) {
      return lines_.error("the sizes add up to more than 2 EiB");
    }
    Op op{size, 0, static_cast<std::uint16_t>(stream->value), OpKind::allocate, 0};
    if (action == "allocate failure") {
      op.flags = kAttempt;
      op.id = numbers_.peek();
    } else if (pointer == 0 || pointer > kLargestAddress) {
      return lines_.error("pointer " + quoted(pointer_word) + " cannot be a block's", column(3));
    } else if (action == "allocate") {
      op.id = numbers_.take();
      if (!live_.insert(pointer, op.id)) {
        return lines_.error("allocates " + quoted(pointer_word) + ", which is live already",
                            column(3));
      }
    } else {
      const auto slot = live_.take(pointer);
      if (!slot) {
        return lines_.error("frees " + quoted(pointer_word) + ", which is not live", column(3));
      }
      op.kind = OpKind::free;
      op.value = 0;
      op.id = *slot;
      numbers_.give_back(*slot);
    }
    // Threads may log a little out of order; only midnight sets the clock back by half a day.
    if (*time + day_ + kDayUs / 2 < last_time_) {
      day_ += kDayUs;
    }
    last_time_ = *time + day_;
    trace_.buffer_slots = numbers_.end();
    trace_.ops.push_back(op);
    trace_.times_us.push_back(last_time_);
    return std::nullopt;
  }

  LineReader lines_;
  StreamTable streams_{};
  AddressMap live_{};
  Numbers numbers_{};  // of buffers
  std::int64_t sum_{};
  std::int64_t day_{};
  std::int64_t last_time_{};
  Trace trace_{};
};

}  // namespace

Expected<Trace> read_rmm_log(Window& window) { return Reader{window}.read(); }

std::string rmm_log(const Trace& trace) {
  const Recording made = recording_of(trace);
  std::string out{kHeader};
  out += '\n';
  for (std::size_t i = 0; i < made.events.size(); ++i) {
    const AllocatorEvent& event = made.events[i];
    const char* action = event.action == Action::alloc            ? "allocate"
                         : event.action == Action::free_requested ? "free"
                         : event.action == Action::oom            ? "allocate failure"
                                                                  : nullptr;
    if (action == nullptr) {
      continue;
    }
    const std::int64_t time =
        ((made.times_us.empty() ? static_cast<std::int64_t>(i) : made.times_us[i]) % kDayUs +
         kDayUs) %
        kDayUs;
    const std::int64_t seconds = time / 1'000'000;
    out += fmt::format("0,{:02}:{:02}:{:02}.{:06},{},", seconds / 3600, seconds / 60 % 60,
                       seconds % 60, time % 1'000'000, action);
    out += event.action == Action::oom ? "(nil)" : fmt::format("0x{:x}", event.address.value());
    out += fmt::format(",{},0x{:x}\n", event.size.count(), trace.streams[event.stream.value]);
  }
  return out;
}

}  // namespace peakcast
