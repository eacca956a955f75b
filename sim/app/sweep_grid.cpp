#include "sim/app/sweep_grid.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "allocators/plugin/plugin.hpp"
#include "allocators/policy_list.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/core/embedded.hpp"
#include "sim/core/json_nesting.hpp"
#include "sim/core/text_file.hpp"

namespace peakcast::app {
namespace {

constexpr std::size_t kMostPoints = 1'000'000;
constexpr std::int64_t kLargest = std::int64_t{1} << 61;  // twice as much still is a number

/// Commas are part of what these take: one value each (a grid's file may list several).
constexpr std::array<std::string_view, 7> kWhole{"set",    "batches", "lora-targets", "alloc-conf",
                                                 "freeze", "offload", "program"};
/// Where 8k is 8192.
constexpr std::array<std::string_view, 3> kLengths{"batch", "seq", "target-seq"};

std::string text_of(const std::string& file) {
  if (file != "-") {
    return value_or_throw(read_text_file(file));
  }
  const std::string* const given = captured_input();
  if (given != nullptr) {
    return *given;
  }
  constexpr std::size_t kMost = std::size_t{16} << 20;  // as of a file: stdin may have no end
  std::string text(kMost + 1, '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::cin.gcount()));
  if (text.size() > kMost) {
    throw Fault{fmt::format("-: larger than {} bytes", kMost)};
  }
  return text;
}

template <class List>
bool is_one_of(const List& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// Throws Fault: a value that no flag takes.
void check_value(const Json& value, const std::string& flag, const std::string& file) {
  // A fraction is for --limit; others refuse it.
  const bool plain = value.is_boolean() || value.is_string() || value.is_number();
  if (value.is_array()) {  // of a repeatable flag
    for (const Json& item : value) {
      check_value(item, flag, file);
    }
  } else if (!plain) {
    throw Fault{
        fmt::format("{}: \"{}\" must be a string, a number, true, false or a list", file, flag)};
  }
}

/// A value as the word of a flag; true is a flag without a word.
void add_words(std::vector<std::string>& words, const std::string& flag, const Json& value) {
  const std::string name = "--" + flag;
  if (value.is_boolean()) {
    if (value.get<bool>()) {
      words.push_back(name);
    }
  } else if (value.is_string()) {
    words.push_back(name + "=" + value.get<std::string>());
  } else if (value.is_array()) {
    for (const Json& item : value) {
      add_words(words, flag, item);
    }
  } else {
    words.push_back(name + "=" + value.dump());
  }
}

std::vector<std::string> split(std::string_view word, char at) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = word.find(at);
    parts.emplace_back(word.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    word.remove_prefix(end + 1);
  }
}

/// "128..512" doubles, "8..24:8" steps. Throws Fault.
void add_range(const std::string& flag, const std::string& word, std::vector<Json>& values) {
  const std::size_t dots = word.find("..");
  const std::size_t colon = word.find(':', dots);
  const auto number = [&](std::size_t from, std::size_t to) {
    const auto read = parse_length(word.substr(from, to - from), 1, kLargest);
    if (!read) {
      throw Fault{
          fmt::format("--{}: '{}' is not FROM..TO (doubling) or FROM..TO:STEP", flag, word)};
    }
    return *read;
  };
  const std::int64_t first = number(0, dots);
  const std::int64_t last = number(dots + 2, std::min(colon, word.size()));
  const std::optional<std::int64_t> step =
      colon == std::string::npos ? std::nullopt : std::optional{number(colon + 1, word.size())};
  if (first > last) {
    throw Fault{fmt::format("--{}: '{}' ends before it begins", flag, word)};
  }
  if (step && static_cast<std::uint64_t>((last - first) / *step) >= kMostPoints) {
    throw Fault{fmt::format("--{}: '{}' is more than {} values", flag, word, kMostPoints)};
  }
  for (std::int64_t value = first; value <= last; value += step ? *step : value) {
    values.emplace_back(value);
  }
}

/// A word of a flag as a grid's file would hold it: a whole number as a number.
Json value_of(const std::string& flag, const std::string& word) {
  const bool digits = !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
  if (digits || is_one_of(kLengths, flag)) {
    if (const auto number = parse_length(word, 0, kLargest)) {
      return Json(*number);
    }
  }
  return Json(word);
}

std::vector<Json> values_of(const std::string& flag, const std::string& word) {
  if (is_one_of(kWhole, flag)) {
    return {Json(word)};
  }
  std::vector<Json> values;
  if (flag == "policy") {  // whose settings may have commas
    for (const PolicyName& name : policy_list(word)) {
      if (name.text().empty()) {
        throw Fault{fmt::format("--{}: '{}' has an empty value", flag, word)};
      }
      values.emplace_back(name.text());
    }
    return values;
  }
  if (flag == "gpu" && word == "all") {
    for (const EmbeddedFile& card : embedded_gpus()) {
      values.emplace_back(std::string{card.name});
    }
    return values;
  }
  for (const std::string& item : split(word, ',')) {
    if (item.empty()) {
      throw Fault{fmt::format("--{}: '{}' has an empty value", flag, word)};
    }
    const bool range = item.front() >= '0' && item.front() <= '9' && item.find("..") != item.npos;
    if (range) {
      add_range(flag, item, values);
    } else {
      values.push_back(value_of(flag, item));
    }
  }
  return values;
}

}  // namespace

void SweepGrid::finish() {
  for (const Axis& axis : axes_) {
    size_ *= axis.values.size();
    if (size_ > kMostPoints) {
      throw Fault{fmt::format("{}: more than {} points", name_, kMostPoints)};
    }
  }
}

SweepGrid SweepGrid::from_file(const std::string& file) { return from_text(text_of(file), file); }

SweepGrid SweepGrid::from_text(std::string_view text, const std::string& file) {
  Json json;
  if (const auto fault = parse_json(text, json)) {
    throw Fault{fmt::format("{}: byte {}: {}", file, fault->byte, fault->what)};
  }
  if (!json.is_object()) {
    throw Fault{fmt::format("{}: must be an object with \"run\" and \"grid\"", file)};
  }
  SweepGrid grid;
  grid.name_ = file;
  for (const auto& [key, value] : json.items()) {
    if ((key != "run" && key != "grid") || !value.is_object()) {
      throw Fault{fmt::format("{}: \"{}\" is not \"run\" or \"grid\" with an object", file, key)};
    }
    for (const auto& [flag, item] : value.items()) {
      check_value(item, flag, file);
      if (key == "run") {
        grid.shared_.push_back({flag, item});
      } else if (!item.is_array() || item.empty()) {
        throw Fault{fmt::format("{}: \"grid\".\"{}\" must be a list of values", file, flag)};
      } else {
        grid.axes_.push_back({flag, {item.begin(), item.end()}});
      }
    }
  }
  grid.finish();
  return grid;
}

SweepGrid SweepGrid::from_flags(const GivenFlags& given) {
  SweepGrid grid;
  grid.name_ = "sweep";
  std::vector<Axis> said;  // a flag that stands several times has all its values
  for (const auto& [flag, word] : given) {
    std::vector<Json> values = word.empty() ? std::vector<Json>{Json(true)} : values_of(flag, word);
    const auto before = std::find_if(
        said.begin(), said.end(), [&name = flag](const Axis& axis) { return axis.flag == name; });
    if (before == said.end()) {
      said.push_back({flag, std::move(values)});
    } else {
      std::move(values.begin(), values.end(), std::back_inserter(before->values));
    }
  }
  for (Axis& axis : said) {
    if (axis.values.size() == 1) {
      grid.shared_.push_back({axis.flag, std::move(axis.values.front())});
    } else if (is_one_of(kWhole, axis.flag)) {  // all of them at each point
      grid.shared_.push_back({axis.flag, Json(std::move(axis.values))});
    } else {
      grid.axes_.push_back(std::move(axis));
    }
  }
  grid.finish();
  return grid;
}

bool SweepGrid::names_plugin() const {
  std::vector<std::string> words{"sweep"};
  const auto add = [&](const std::string& flag, const Json& value) {
    if (flag == "policy") {
      add_words(words, flag, value);
    }
  };
  for (const Shared& shared : shared_) {
    add(shared.flag, shared.value);
  }
  for (const Axis& axis : axes_) {
    for (const Json& value : axis.values) {
      add(axis.flag, value);
    }
  }
  return peakcast::names_plugin(words);
}

std::vector<Json> SweepGrid::values_at(std::size_t point) const {
  std::vector<Json> values(axes_.size());
  for (std::size_t axis = axes_.size(); axis-- > 0;) {
    const std::vector<Json>& all = axes_[axis].values;
    values[axis] = all[point % all.size()];
    point /= all.size();
  }
  return values;
}

std::vector<std::string> SweepGrid::words_at(std::size_t point) const {
  std::vector<std::string> words;
  for (const Shared& shared : shared_) {
    add_words(words, shared.flag, shared.value);
  }
  const std::vector<Json> values = values_at(point);
  for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
    add_words(words, axes_[axis].flag, values[axis]);
  }
  return words;
}

}  // namespace peakcast::app
