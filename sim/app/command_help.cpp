#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command_line.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

constexpr std::size_t kLeft = 26;  // of a flag and its value, two spaces before it included
constexpr std::size_t kWide = 80;

/// A flag and what it is for, beside each other where they are short enough.
std::string help_row(const std::string& left, const std::string& right) {
  if (right.empty()) {
    return "  " + left + "\n";
  }
  const std::string indent(kLeft, ' ');
  const std::string text = folded(indent + right, indent, kWide) + "\n";
  const std::string head = "  " + left;
  return head.size() + 2 > kLeft ? head + "\n" + text : head + text.substr(head.size());
}

/// "a|b|c" as the value's name, or "WORD" and "a, b, c" for the help where they are many.
std::pair<std::string, std::string> value_and_choices(const std::string& name,
                                                      const std::string& value) {
  constexpr std::size_t kMost = kLeft - 7;  // with "  --" before, " " between and "  " behind
  if (value.find('|') == std::string::npos || name.size() + value.size() <= kMost) {
    return {value, ""};
  }
  std::string words;
  for (const char c : value) {
    words += c == '|' ? std::string{", "} : std::string{c};
  }
  return {value.find_first_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos ? value : "WORD",
          words};
}

}  // namespace

std::string CommandLine::help_json() const {
  Json out;
  out["command"] = usage_.command;
  out["summary"] = usage_.summary;
  out["example"] = fmt::format("{} {}", usage_.program, usage_.example);
  out["words"] = Json::array();
  for (const Positional& positional : positionals_) {
    out["words"].push_back({{"name", positional.name},
                            {"help", positional.help},
                            {"many", positional.many != nullptr},
                            {"required", positional.one != nullptr}});
  }
  out["flags"] = Json::array();
  for (const Option& option : options_) {
    out["flags"].push_back({{"name", option.name},
                            {"value", option.value_name},
                            {"default", option.default_text},
                            {"help", option.help},
                            {"topic", option.topic},
                            {"repeatable", option.repeatable}});
  }
  return json_text(out);
}

std::string CommandLine::topic_text(const std::string& topic) const {
  std::string text;
  for (const Option& option : options_) {
    if (option.topic != topic) {
      continue;
    }
    const std::string_view letter = option.name == "quiet"     ? "-q, "
                                    : option.name == "verbose" ? "-v, "
                                                               : "";
    const auto [value, choices] = value_and_choices(option.name, option.value_name);
    std::string help = option.help;
    if (value == "WORD") {
      help += (help.empty() ? "" : ": ") + choices;
    }
    if (option.repeatable) {
      help += " (repeatable)";
    }
    if (!option.default_text.empty()) {
      help += fmt::format(" (default: {})", option.default_text);
    }
    text += help_row(
        fmt::format("{}--{}{}{}", letter, option.name, value.empty() ? "" : " ", value), help);
  }
  return text;
}

std::string CommandLine::help_text() const {
  std::string usage = fmt::format("usage: {} {}", usage_.program, usage_.command);
  std::string words;
  for (const Positional& positional : positionals_) {
    usage += positional.many != nullptr    ? " [" + positional.name + "...]"
             : positional.maybe != nullptr ? " [" + positional.name + "]"
                                           : " " + positional.name;
    words += help_row(positional.name, positional.help);
  }
  std::string text = folded(std::string{usage_.summary}) + "\n\n" + usage + " [FLAGS]\n";
  text += words.empty() ? "" : "\n" + words;
  std::vector<std::string> topics;
  for (const Option& option : options_) {
    if (std::find(topics.begin(), topics.end(), option.topic) == topics.end()) {
      topics.push_back(option.topic);
    }
  }
  std::rotate(topics.begin(), topics.begin() + 1, topics.end());  // the output's comes last
  const bool titled = topics.size() > 2;
  for (const std::string& topic : topics) {
    text += titled ? "\n" + (topic.empty() ? std::string{"this command"} : topic) + ":\n" : "\n";
    text += topic_text(topic);
  }
  text += help_row("-h, --help", "this text");
  text += "\n" + folded(fmt::format("example: {} {}", usage_.program, usage_.example), "  ");
  return text + "\n" + (notes_.empty() ? "" : "\n" + std::string{notes_});
}

}  // namespace peakcast::app
