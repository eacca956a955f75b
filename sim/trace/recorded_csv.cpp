#include "sim/trace/recorded_csv.hpp"

#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "sim/core/nearest.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/recorded_start.hpp"
#include "sim/trace/stream_table.hpp"
#include "sim/trace/text_fields.hpp"

namespace peakcast {
namespace {

enum class Fifth : std::uint8_t { none, time, label };

std::optional<Action> fast_action(std::string_view word) {
  // The three that make up nearly every line first.
  if (word == "alloc") {
    return Action::alloc;
  }
  if (word == "free_requested") {
    return Action::free_requested;
  }
  if (word == "free_completed") {
    return Action::free_completed;
  }
  return action_from(word);
}

bool all_digits(std::string_view word) {
  return !word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos;
}

class Reader {
 public:
  Reader(Window& window, const Sidecar* sidecar) : lines_{window}, sidecar_{sidecar} {}

  Expected<Trace> read() {
    std::string_view line;
    for (;;) {
      auto more = lines_.next(line);
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
    if (recording_.events.empty()) {
      return lines_.error_at_line(1, "no entries");
    }
    Trace trace;
    trace.strings = strings_.take();
    trace.recording = std::move(recording_);
    if (sidecar_ != nullptr) {
      // First: its figures help to tell empty_cache from a retry.
      if (!apply_sidecar(trace, *sidecar_, streams_)) {
        return lines_.error_at_line(1, "the final segments name one stream too many");
      }
    }
    streams_.finish(trace);
    // A recording that began late shows in what was reserved before it; its addresses may then be
    // freed without having been allocated.
    const std::optional<Bytes> before = reserved_at_start(*trace.recording);
    trace.recording->head_lost = before && *before > Bytes{};
    if (auto bad = derive_program(trace, trace.recording->head_lost)) {
      // One entry a line, no header: the index is the line.
      return lines_.error_at_line(static_cast<std::int64_t>(bad->event) + 1, std::move(bad->why));
    }
    if (sidecar_ != nullptr) {
      insert_marks(trace, sidecar_->marks);
    }
    return trace;
  }

 private:
  std::optional<Error> read_line(std::string_view line) {
    std::string_view rest = line;
    const auto column = [&](std::string_view word) { return word.data() - line.data() + 1; };
    std::string_view action_word;
    std::string_view address_word;
    std::string_view size_word;
    if (!take_word(rest, action_word) || !take_word(rest, address_word) ||
        !take_word(rest, size_word)) {
      return lines_.error("action,addr,size,stream is needed");
    }
    const std::size_t comma = rest.find(',');
    const std::string_view stream_word = rest.substr(0, comma);
    const bool has_fifth = comma != std::string_view::npos;
    const std::string_view fifth = has_fifth ? rest.substr(comma + 1) : std::string_view{};
    if (recording_.events.empty()) {
      fifth_ = !has_fifth ? Fifth::none : all_digits(fifth) ? Fifth::time : Fifth::label;
    } else if (has_fifth != (fifth_ != Fifth::none)) {
      return lines_.error(has_fifth ? "a column more than the lines before"
                                    : "a column less than the lines before");
    }

    const auto action = fast_action(action_word);
    if (!action) {
      std::array<std::string_view, kActionCount> names{};
      for (int i = 0; i < kActionCount; ++i) {
        names.at(static_cast<std::size_t>(i)) = to_string(static_cast<Action>(i));
      }
      return lines_.error(unknown_word("action", action_word, names), 1);
    }
    AllocatorEvent event;
    event.action = *action;
    std::uint64_t address{};
    if (!parse_hex(address_word, address)) {
      return lines_.error("address " + quoted(address_word) + " is not a hex number of 64 bits",
                          column(address_word));
    }
    event.address = Address{address};
    std::int64_t size{};
    if (!parse_decimal(size_word, size)) {
      return lines_.error("size " + quoted(size_word) + " is not a whole number of bytes",
                          column(size_word));
    }
    if (size > kLargestSize) {
      return lines_.error("size " + quoted(size_word) + " is larger than 256 TiB",
                          column(size_word));
    }
    event.size = Bytes{size};
    if (*action != Action::snapshot) {
      if (size == 0) {
        return lines_.error("size 0", column(size_word));
      }
      // An oom's address is the device's free bytes.
      if (*action != Action::oom && (address == 0 || address > kLargestAddress)) {
        return lines_.error("address " + quoted(address_word) + " cannot be a device's",
                            column(address_word));
      }
    }
    std::uint64_t handle{};
    if (!parse_hex(stream_word, handle)) {
      return lines_.error("stream " + quoted(stream_word) + " is not a hex number of 64 bits",
                          column(stream_word));
    }
    const auto stream = streams_.id(handle);
    if (!stream) {
      return lines_.error("stream " + quoted(stream_word) + " is one too many, or reserved",
                          column(stream_word));
    }
    event.stream = *stream;
    if (fifth_ == Fifth::time) {
      std::int64_t time{};
      if (!parse_decimal(fifth, time)) {
        return lines_.error("time " + quoted(fifth) + " is not a whole number of microseconds",
                            column(fifth));
      }
      recording_.times_us.push_back(time);
    } else if (fifth_ == Fifth::label) {
      recording_.labels.push_back(fifth.empty() ? 0 : strings_.index(fifth) + 1);
    }
    if (recording_.events.size() >= kNoEvent) {
      return lines_.error("more entries than 2^32");
    }
    recording_.events.push_back(event);
    return std::nullopt;
  }

  LineReader lines_;
  const Sidecar* sidecar_;
  Fifth fifth_{};
  StreamTable streams_{};
  StringTable strings_{};
  Recording recording_{};
};

}  // namespace

Expected<Trace> read_recorded_csv(Window& window, const Sidecar* sidecar) {
  return Reader{window, sidecar}.read();
}

std::string recorded_csv(const Recording& recording, const std::vector<std::uint64_t>& streams,
                         const std::vector<std::string>& strings) {
  std::string out;
  constexpr std::size_t kUsualLine = 56;
  out.reserve(recording.events.size() * kUsualLine);
  std::array<char, 24> digits{};
  const auto put = [&](auto value, int base) {
    const auto done = std::to_chars(digits.data(), digits.data() + digits.size(), value, base);
    out.append(digits.data(), done.ptr);
  };
  for (std::size_t i = 0; i < recording.events.size(); ++i) {
    const AllocatorEvent& event = recording.events[i];
    out.append(to_string(event.action)).append(",");
    put(event.address.value(), 16);
    out += ',';
    put(event.size.count(), 10);
    out += ',';
    put(streams.at(event.stream.value), 16);
    if (!recording.times_us.empty()) {
      out += ',';
      put(recording.times_us[i], 10);
    } else if (!recording.labels.empty()) {
      out += ',';
      const std::uint32_t label = recording.labels[i];
      out += label > 0 ? strings.at(label - 1) : std::string{};
    }
    out += '\n';
  }
  return out;
}

}  // namespace peakcast
