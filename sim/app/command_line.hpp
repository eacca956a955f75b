#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/app/console.hpp"
#include "sim/core/error.hpp"
#include "sim/core/memory_limit.hpp"
#include "sim/core/units.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// The help's title over --format and its like, which stand last.
inline constexpr std::string_view kOutputTopic = "output";

/// What --help shows above the flags.
struct Usage {
  std::string_view command;  ///< "replay"
  std::string_view summary;  ///< one line
  std::string_view example;  ///< one whole command line, without the program's name
  std::string_view program{"peakcast"};
};

/// "4096" or "4k" (of 1024), within the bounds.
[[nodiscard]] Expected<std::int64_t> parse_length(const std::string& text, std::int64_t minimum,
                                                  std::int64_t maximum);

/// The flags of one command: declared with the variables that they set, whose present values are
/// the defaults, then parsed once. The variables outlive the CommandLine.
///
///     std::string policy = "pytorch";
///     CommandLine line{{"replay", "Run a trace through a policy", "replay run.csv.zst"}};
///     line.positional("TRACE", trace, "the trace; - is stdin");
///     line.text("policy", "NAME", policy, "which policy");
///     if (const auto status = line.parse(words)) { return *status; }
///     Json report = report_head("replay", line.echo());
///
/// Flags are `--name VALUE` or `--name=VALUE`, never abbreviated, each at most once unless it is a
/// list. An unknown flag or value is a Fault that names the nearest valid one.
class CommandLine {
 public:
  explicit CommandLine(Usage usage);

  /// Flags that are declared from here on stand under this title in the help.
  void topic(std::string title) { topic_ = std::move(title); }
  /// What the help ends with.
  void notes(std::string_view text) { notes_ = text; }
  /// `--name`: sets `target`.
  void flag(std::string name, bool& target, std::string help);
  void text(std::string name, std::string value_name, std::string& target, std::string help);
  void text(std::string name, std::string value_name, std::optional<std::string>& target,
            std::string help);
  /// Repeatable; each use adds one.
  void texts(std::string name, std::string value_name, std::vector<std::string>& target,
             std::string help);
  void number(std::string name, std::int64_t& target, std::string help, std::int64_t minimum = 0,
              std::int64_t maximum = std::numeric_limits<std::int64_t>::max());
  void number(std::string name, std::optional<std::int64_t>& target, std::string help,
              std::int64_t minimum = 0,
              std::int64_t maximum = std::numeric_limits<std::int64_t>::max());
  /// A number of tokens or samples: 8k is 8192.
  void length(std::string name, std::int64_t& target, std::string help, std::int64_t minimum,
              std::int64_t maximum);
  void length(std::string name, std::optional<std::int64_t>& target, std::string help,
              std::int64_t minimum, std::int64_t maximum);
  /// A size (see parse_size); echoed as NAME_bytes.
  void size(std::string name, std::optional<Bytes>& target, std::string help);
  /// A size or a part of the card (see MemoryLimit); echoed in bytes once it is settled.
  void limit(std::string name, std::optional<MemoryLimit>& target, std::string help);
  /// `on` or `off`.
  void on_off(std::string name, bool& target, std::string help);
  /// One word of a fixed list.
  // NOLINTBEGIN(performance-unnecessary-value-param): moved on
  template <class T>
  void choice(std::string name, std::span<const std::pair<std::string_view, T>> values, T& target,
              std::string help) {
    std::vector<std::string_view> words;
    std::size_t now = values.size();
    for (std::size_t i = 0; i < values.size(); ++i) {
      words.push_back(values[i].first);
      if (values[i].second == target) {
        now = i;
      }
    }
    add_choice(
        std::move(name), std::move(words), now,
        [values, &target](std::size_t chosen) { target = values[chosen].second; }, std::move(help));
  }
  // NOLINTEND(performance-unnecessary-value-param)
  /// Any other kind of value: `set` reads it.
  void value(std::string name, std::string value_name, std::string default_text,
             std::function<Expected<Ok>(const std::string&)> set, std::function<Json()> echo,
             std::string help);

  /// `name`, declared before, may be given more than once.
  void make_repeatable(std::string_view name);

  /// Declares the flags of `other` (all but those that every command has), in its topics, and tells
  /// `given` their names and words, unread, in the order of the command line.
  void take_flags(const CommandLine& other,
                  const std::function<void(const std::string&, const std::string&)>& given);

  /// A word without a flag, in the order of declaration; required.
  void positional(std::string name, std::string& target, std::string help);
  /// The remaining words, none or more.
  void positionals(std::string name, std::vector<std::string>& target, std::string help);
  /// One that may be missing; the last.
  void optional_positional(std::string name, std::optional<std::string>& target, std::string help);

  /// Sets the variables. A status means that the command is done: --help was asked for.
  [[nodiscard]] std::optional<int> parse(std::span<const std::string> words);

  [[nodiscard]] std::string_view command() const { return usage_.command; }
  [[nodiscard]] const Console& console() const { return console_; }
  /// Whether the flag was given (with whatever value).
  [[nodiscard]] bool given(std::string_view name) const;
  /// Every flag's name, in the order of declaration.
  [[nodiscard]] std::vector<std::string> names() const;
  /// These flags are no inputs of this run: echo() leaves them out.
  void leave_out(std::span<const std::string> names);
  /// Every flag and word with the value it has now, for Report's `inputs`; names with '_'.
  [[nodiscard]] Json echo() const;

 private:
  struct Option {
    std::string name;
    std::string value_name;    ///< "" for a flag
    std::string default_text;  ///< "" for none
    std::string help;
    std::function<Expected<Ok>(const std::string&)> set;
    std::function<Json()> echo;
    std::string echo_name{};
    std::string topic{};
    bool repeatable{};
    bool given{};
    bool left_out{};  ///< of the echo
  };
  struct Positional {
    std::string name;
    std::string help;
    std::string* one{};
    std::vector<std::string>* many{};
    std::optional<std::string>* maybe{};
  };
  void add_choice(std::string name, std::vector<std::string_view> words, std::size_t now,
                  const std::function<void(std::size_t)>& set, std::string help);
  [[nodiscard]] std::string help_text() const;  ///< this and the next: command_help.cpp
  [[nodiscard]] std::string topic_text(const std::string& topic) const;
  /// The flag table for programs: completions, the manual and the Python package are made from it.
  [[nodiscard]] std::string help_json() const;
  [[noreturn]] void unknown_flag(const std::string& word) const;

  Usage usage_;
  Console console_{};
  std::string topic_{};
  std::string_view notes_{};
  std::vector<Option> options_{};
  std::vector<Positional> positionals_{};
};

}  // namespace peakcast::app
