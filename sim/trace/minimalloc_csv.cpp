#include "sim/trace/minimalloc_csv.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/nearest.hpp"
#include "sim/core/slots.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/stream_table.hpp"
#include "sim/trace/text_fields.hpp"

namespace peakcast {
namespace {

enum class Column : std::uint8_t { id, lower, upper, end, size, alignment, hint, gaps, offset };

constexpr std::array<std::pair<std::string_view, Column>, 13> kColumns{
    {{"id", Column::id},
     {"buffer", Column::id},
     {"buffer_id", Column::id},
     {"lower", Column::lower},
     {"start", Column::lower},
     {"begin", Column::lower},
     {"upper", Column::upper},
     {"end", Column::end},
     {"size", Column::size},
     {"alignment", Column::alignment},
     {"hint", Column::hint},
     {"gaps", Column::gaps},
     {"offset", Column::offset}}};

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> words;
  std::string_view word;
  while (take_word(line, word)) {
    words.push_back(word);
  }
  words.push_back(line);
  return words;
}

std::optional<Column> column_of(std::string_view name) {
  for (const auto& [known, column] : kColumns) {
    if (known == name) {
      return column;
    }
  }
  return std::nullopt;
}

bool parse_signed(std::string_view word, std::int64_t& value) {
  const bool negative = word.starts_with('-');
  if (!parse_decimal(negative ? word.substr(1) : word, value)) {
    return false;
  }
  value = negative ? -value : value;
  return true;
}

struct Row {
  std::int64_t lower{};
  std::int64_t upper{};
  std::int64_t size{};
  std::uint32_t label{};
};

class Reader {
 public:
  explicit Reader(Window& window) : lines_{window} {}

  Expected<Trace> read() {
    std::string_view line;
    auto more = lines_.next(line);
    if (!more) {
      return more.error();
    }
    if (auto fault = read_header(line)) {
      return *std::move(fault);
    }
    for (;;) {
      more = lines_.next(line);
      if (!more) {
        return more.error();
      }
      if (!*more) {
        break;
      }
      if (auto fault = read_row(line)) {
        return *std::move(fault);
      }
    }
    if (rows_.empty()) {
      return lines_.error("no buffers");
    }
    return make_trace();
  }

 private:
  std::optional<Error> read_header(std::string_view line) {
    for (const std::string_view name : split(line)) {
      const auto column = column_of(name);
      if (!column) {
        std::array<std::string_view, kColumns.size()> names{};
        std::transform(kColumns.begin(), kColumns.end(), names.begin(),
                       [](const auto& known) { return known.first; });
        return lines_.error(unknown_word("column", name, names), name.data() - line.data() + 1);
      }
      const auto same = [&](Column other) {
        return other == *column || (std::min(other, *column) == Column::upper &&
                                    std::max(other, *column) == Column::end);
      };
      if (std::any_of(columns_.begin(), columns_.end(), same)) {
        return lines_.error("column " + quoted(name) + " is there twice",
                            name.data() - line.data() + 1);
      }
      columns_.push_back(*column);
    }
    const auto has = [&](Column column) {
      return std::find(columns_.begin(), columns_.end(), column) != columns_.end();
    };
    if (!has(Column::id) || !has(Column::lower) || !has(Column::size) ||
        (!has(Column::upper) && !has(Column::end))) {
      return lines_.error("the columns id, lower, upper and size are needed");
    }
    return std::nullopt;
  }

  std::optional<Error> read_row(std::string_view line) {
    if (line.empty()) {
      return lines_.error("the line is blank");
    }
    const std::vector<std::string_view> words = split(line);
    if (words.size() != columns_.size()) {
      return lines_.error(
          fmt::format("{} columns, the header has {}", words.size(), columns_.size()));
    }
    Row row;
    for (std::size_t i = 0; i < words.size(); ++i) {
      const std::string_view word = words[i];
      const auto at = word.data() - line.data() + 1;
      std::int64_t number{};
      if (columns_[i] == Column::id) {
        row.label = strings_.index(word);
        continue;
      }
      if (columns_[i] == Column::gaps) {
        if (!word.empty()) {
          return lines_.error("buffers with gaps cannot be replayed", at);
        }
        continue;
      }
      if (!parse_signed(word, number)) {
        return lines_.error(quoted(word) + " is not a whole number", at);
      }
      switch (columns_[i]) {
        case Column::lower:
          row.lower = number;
          break;
        case Column::upper:
          row.upper = number;
          break;
        case Column::end:
          row.upper = number + 1;
          break;
        case Column::size:
          if (number <= 0 || number > kLargestSize) {
            return lines_.error("size " + quoted(word) + " is not within 1 byte and 256 TiB", at);
          }
          row.size = number;
          break;
        case Column::alignment:
          // What every policy here keeps; more would change the problem.
          if (number < 1 || number > 512) {
            return lines_.error("alignment " + quoted(word) + " is not within 1 and 512", at);
          }
          break;
        case Column::id:
        case Column::gaps:
        case Column::hint:
        case Column::offset:
          break;
      }
    }
    if (row.lower >= row.upper) {
      return lines_.error(fmt::format("the life [{}, {}) is empty", row.lower, row.upper));
    }
    if ((sum_ += row.size) > kLargestSum) {
      return lines_.error("the sizes add up to more than 2 EiB");
    }
    if (rows_.size() >= kNoEvent / 2) {
      return lines_.error("more rows than 2^31");
    }
    rows_.push_back(row);
    return std::nullopt;
  }

  Trace make_trace() {
    // (time, 0 for a free and 1 for an allocation, row): a total order.
    std::vector<std::tuple<std::int64_t, int, std::uint32_t>> events;
    events.reserve(rows_.size() * 2);
    for (std::uint32_t i = 0; i < rows_.size(); ++i) {
      events.emplace_back(rows_[i].lower, 1, i);
      events.emplace_back(rows_[i].upper, 0, i);
    }
    std::sort(events.begin(), events.end());
    Trace trace;
    trace.strings = strings_.take();
    std::vector<std::uint32_t> slot_of(rows_.size());
    Numbers numbers;
    for (const auto& [time, kind, i] : events) {
      if (kind == 1) {
        slot_of[i] = numbers.take();
        trace.ops.push_back({rows_[i].size, slot_of[i], 0, OpKind::allocate, 0});
      } else {
        numbers.give_back(slot_of[i]);
        trace.ops.push_back({0, slot_of[i], 0, OpKind::free, 0});
      }
      trace.labels.push_back(rows_[i].label + 1);
      trace.times_us.push_back(time);
    }
    trace.buffer_slots = numbers.end();
    return trace;
  }

  LineReader lines_;
  std::vector<Column> columns_{};
  StringTable strings_{};
  std::vector<Row> rows_{};
  std::int64_t sum_{};
};

}  // namespace

bool is_minimalloc_header(std::string_view line) {
  const std::vector<std::string_view> words = split(line.substr(0, 256));
  return words.size() >= 4 && std::count_if(words.begin(), words.end(), [](std::string_view word) {
                                return column_of(word).has_value();
                              }) >= 3;
}

Expected<Trace> read_minimalloc_csv(Window& window) { return Reader{window}.read(); }

std::string minimalloc_csv(const Trace& trace) {
  using namespace literals;
  struct Life {
    std::size_t lower{};
    std::size_t upper{};
    Bytes size{};
  };
  std::vector<Life> lives;
  std::vector<std::size_t> life_of(trace.buffer_slots);
  for (std::size_t i = 0; i < trace.ops.size(); ++i) {
    const Op& op = trace.ops[i];
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      life_of[op.id] = lives.size();
      lives.push_back({i, trace.ops.size(), round_up(Bytes{op.value}, 512_B)});
    } else if (op.kind == OpKind::free || op.kind == OpKind::complete) {
      lives[life_of[op.id]].upper = i;
    }
  }
  std::string out = "id,lower,upper,size\n";
  for (std::size_t i = 0; i < lives.size(); ++i) {
    out += fmt::format("{},{},{},{}\n", i, lives[i].lower, lives[i].upper, lives[i].size.count());
  }
  return out;
}

}  // namespace peakcast
