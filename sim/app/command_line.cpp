#include "sim/app/command_line.hpp"

#include <algorithm>
#include <charconv>
#include <memory>
#include <system_error>

#include <boost/program_options.hpp>
#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/size_text.hpp"

namespace peakcast::app {
namespace {

namespace po = boost::program_options;

// The flags that the common ones below are declared under; `--help` is handled by parse().
constexpr std::string_view kWords = "words";  // the hidden option that collects positionals

std::string with_underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Expected<std::int64_t> parse_number(const std::string& text, std::int64_t minimum,
                                    std::int64_t maximum) {
  std::int64_t number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) {
    return invalid_input(fmt::format("'{}' is too large", text));
  }
  if (error != std::errc{} || end != text.data() + text.size()) {
    return invalid_input(fmt::format("'{}' is not a whole number", text));
  }
  if (number < minimum || number > maximum) {
    return invalid_input(maximum == std::numeric_limits<std::int64_t>::max()
                             ? fmt::format("{} is below {}", number, minimum)
                             : fmt::format("{} is not in {}..{}", number, minimum, maximum));
  }
  return number;
}

/// What sets `target` to the number that `parse` reads.
template <class Target>
std::function<Expected<Ok>(const std::string&)> setter(
    Target& target, Expected<std::int64_t> (*parse)(const std::string&, std::int64_t, std::int64_t),
    std::int64_t minimum, std::int64_t maximum) {
  return [=, &target](const std::string& word) -> Expected<Ok> {
    const auto number = parse(word, minimum, maximum);
    if (!number) {
      return number.error();
    }
    target = *number;
    return Ok{};
  };
}

bool asks_for_json(const std::vector<po::option>& words) {
  return std::any_of(words.begin(), words.end(), [](const po::option& word) {
    return word.string_key == "format" && word.value == std::vector<std::string>{"json"};
  });
}

}  // namespace

Expected<std::int64_t> parse_length(const std::string& text, std::int64_t minimum,
                                    std::int64_t maximum) {
  constexpr std::int64_t kThousand = 1024;
  if (!text.ends_with('k') && !text.ends_with('K')) {
    return parse_number(text, minimum, maximum);
  }
  const auto count = parse_number(text.substr(0, text.size() - 1), 0,
                                  std::numeric_limits<std::int64_t>::max() / kThousand);
  return count ? parse_number(std::to_string(*count * kThousand), minimum, maximum)
               : invalid_input(fmt::format("'{}' is not a whole number", text));
}

CommandLine::CommandLine(Usage usage) : usage_{usage} {
  topic(std::string{kOutputTopic});
  static constexpr std::array<std::pair<std::string_view, Format>, 3> kFormats{
      {{"text", Format::text}, {"json", Format::json}, {"csv", Format::csv}}};
  choice<Format>("format", kFormats, console_.format, "how results are written");
  flag("quiet", console_.quiet, "no notes and no progress on stderr");
  flag("verbose", console_.verbose, "more notes on stderr");
  topic("");
}

void CommandLine::value(std::string name, std::string value_name, std::string default_text,
                        std::function<Expected<Ok>(const std::string&)> set,
                        std::function<Json()> echo, std::string help) {
  std::string echo_name = with_underscores(name);
  Option option{std::move(name), std::move(value_name), std::move(default_text), std::move(help),
                std::move(set),  std::move(echo),       std::move(echo_name),    topic_};
  const auto before =
      std::find_if(options_.begin(), options_.end(),
                   [&option](const Option& other) { return other.name == option.name; });
  if (before != options_.end()) {  // a command means something else by it than all others do
    *before = std::move(option);
  } else {
    options_.push_back(std::move(option));
  }
}

void CommandLine::make_repeatable(std::string_view name) {
  for (Option& option : options_) {
    option.repeatable = option.repeatable || option.name == name;
  }
}

void CommandLine::flag(std::string name, bool& target, std::string help) {
  value(
      std::move(name), "", "",
      [&target](const std::string&) -> Expected<Ok> {
        target = true;
        return Ok{};
      },
      [&target] { return Json(target); }, std::move(help));
}

void CommandLine::text(std::string name, std::string value_name, std::string& target,
                       std::string help) {
  std::string now = target;
  value(
      std::move(name), std::move(value_name), std::move(now),
      [&target](const std::string& word) -> Expected<Ok> {
        target = word;
        return Ok{};
      },
      [&target] { return Json(target); }, std::move(help));
}

void CommandLine::text(std::string name, std::string value_name, std::optional<std::string>& target,
                       std::string help) {
  value(
      std::move(name), std::move(value_name), target.value_or(""),
      [&target](const std::string& word) -> Expected<Ok> {
        target = word;
        return Ok{};
      },
      [&target] { return target ? Json(*target) : Json(nullptr); }, std::move(help));
}

void CommandLine::texts(std::string name, std::string value_name, std::vector<std::string>& target,
                        std::string help) {
  value(
      std::move(name), std::move(value_name), "",
      [&target](const std::string& word) -> Expected<Ok> {
        target.push_back(word);
        return Ok{};
      },
      [&target] { return Json(target); }, std::move(help));
  options_.back().repeatable = true;
}

void CommandLine::number(std::string name, std::int64_t& target, std::string help,
                         std::int64_t minimum, std::int64_t maximum) {
  value(
      std::move(name), "N", std::to_string(target), setter(target, parse_number, minimum, maximum),
      [&target] { return Json(target); }, std::move(help));
}

void CommandLine::number(std::string name, std::optional<std::int64_t>& target, std::string help,
                         std::int64_t minimum, std::int64_t maximum) {
  value(
      std::move(name), "N", target ? std::to_string(*target) : "",
      setter(target, parse_number, minimum, maximum),
      [&target] { return target ? Json(*target) : Json(nullptr); }, std::move(help));
}

void CommandLine::length(std::string name, std::int64_t& target, std::string help,
                         std::int64_t minimum, std::int64_t maximum) {
  number(std::move(name), target, std::move(help), minimum, maximum);
  options_.back().set = setter(target, parse_length, minimum, maximum);
}

void CommandLine::length(std::string name, std::optional<std::int64_t>& target, std::string help,
                         std::int64_t minimum, std::int64_t maximum) {
  number(std::move(name), target, std::move(help), minimum, maximum);
  options_.back().set = setter(target, parse_length, minimum, maximum);
}

void CommandLine::size(std::string name, std::optional<Bytes>& target, std::string help) {
  value(
      std::move(name), "SIZE", target ? size_text(*target) : "",
      [&target](const std::string& word) -> Expected<Ok> {
        const auto size = parse_size(word);
        if (!size) {
          return size.error();
        }
        target = *size;
        return Ok{};
      },
      [&target] { return bytes_or_null(target); }, std::move(help));
  options_.back().echo_name += "_bytes";
}

void CommandLine::limit(std::string name, std::optional<MemoryLimit>& target, std::string help) {
  value(
      std::move(name), "SIZE|PART", "",
      [&target](const std::string& word) -> Expected<Ok> {
        const auto limit = MemoryLimit::parse(word);
        if (!limit) {
          return limit.error();
        }
        target = *limit;
        return Ok{};
      },
      [&target] { return bytes_or_null(target ? target->size() : std::nullopt); }, std::move(help));
  options_.back().echo_name += "_bytes";
}

void CommandLine::on_off(std::string name, bool& target, std::string help) {
  static constexpr std::array<std::pair<std::string_view, bool>, 2> kStates{
      {{"on", true}, {"off", false}}};
  choice<bool>(std::move(name), kStates, target, std::move(help));
}

void CommandLine::add_choice(std::string name, std::vector<std::string_view> words, std::size_t now,
                             const std::function<void(std::size_t)>& set, std::string help) {
  auto chosen = std::make_shared<std::size_t>(now);
  std::string value_name;
  for (const std::string_view word : words) {
    value_name.append(value_name.empty() ? "" : "|").append(word);
  }
  std::string default_text = now < words.size() ? std::string{words[now]} : "";
  value(
      std::move(name), std::move(value_name), std::move(default_text),
      [words, chosen, set](const std::string& word) -> Expected<Ok> {
        const auto at = std::find(words.begin(), words.end(), plain_word(word));
        if (at == words.end()) {
          return invalid_input(unknown_word("value", word, words));
        }
        *chosen = static_cast<std::size_t>(at - words.begin());
        set(*chosen);
        return Ok{};
      },
      [words, chosen] { return *chosen < words.size() ? Json(words[*chosen]) : Json(nullptr); },
      std::move(help));
}

void CommandLine::take_flags(
    const CommandLine& other,
    const std::function<void(const std::string&, const std::string&)>& given) {
  for (const Option& option : other.options_) {
    if (option.topic == kOutputTopic) {
      continue;
    }
    Option taken = option;
    taken.set = [given, name = option.name](const std::string& word) -> Expected<Ok> {
      given(name, word);
      return Ok{};
    };
    taken.echo = [] { return Json(nullptr); };
    options_.push_back(std::move(taken));
  }
  notes_ = other.notes_;
}

void CommandLine::positional(std::string name, std::string& target, std::string help) {
  positionals_.push_back({std::move(name), std::move(help), &target, nullptr, nullptr});
}

void CommandLine::positionals(std::string name, std::vector<std::string>& target,
                              std::string help) {
  positionals_.push_back({std::move(name), std::move(help), nullptr, &target, nullptr});
}

void CommandLine::optional_positional(std::string name, std::optional<std::string>& target,
                                      std::string help) {
  positionals_.push_back({std::move(name), std::move(help), nullptr, nullptr, &target});
}

std::optional<int> CommandLine::parse(std::span<const std::string> words) {
  // Boost.Program_options splits the words; values are read here, so that every message has the
  // same form and names the nearest valid word.
  po::options_description known;
  for (const Option& option : options_) {
    std::string name = option.name;
    name += name == "quiet" ? ",q" : name == "verbose" ? ",v" : "";
    if (option.value_name.empty()) {
      known.add_options()(name.c_str(), "");
    } else {
      known.add_options()(name.c_str(), po::value<std::string>(), "");
    }
  }
  known.add_options()("help,h", "")(kWords.data(), po::value<std::vector<std::string>>(), "");
  po::positional_options_description positions;
  positions.add(kWords.data(), -1);

  std::vector<po::option> parsed;
  try {
    using Style = po::command_line_style::style_t;
    parsed = po::command_line_parser(std::vector<std::string>(words.begin(), words.end()))
                 .options(known)
                 .positional(positions)
                 .style(po::command_line_style::unix_style & ~Style::allow_guessing)
                 .run()
                 .options;
  } catch (const po::unknown_option& error) {
    unknown_flag(error.get_option_name());
  } catch (const po::invalid_command_line_syntax& error) {
    throw Fault{fmt::format("{}: {}", usage_.command, error.what())};
  }

  std::vector<std::string> loose;
  for (const po::option& word : parsed) {
    if (word.string_key == "help") {
      write_stdout(asks_for_json(parsed) ? help_json() : help_text());
      return kFits;
    }
    if (word.string_key == kWords) {
      if (word.position_key < 0) {  // spelled out: it is not a flag of ours
        unknown_flag("--" + word.string_key);
      }
      loose.insert(loose.end(), word.value.begin(), word.value.end());
      continue;
    }
    for (Option& option : options_) {
      if (option.name != word.string_key) {
        continue;
      }
      if (option.given && !option.repeatable) {
        throw Fault{fmt::format("--{} is given twice", option.name)};
      }
      option.given = true;
      const auto done = option.set(word.value.empty() ? std::string{} : word.value.front());
      if (!done) {
        throw Fault{fmt::format("--{}: {}", option.name, to_string(done.error()))};
      }
    }
  }

  std::size_t next = 0;
  for (const Positional& positional : positionals_) {
    if (positional.many != nullptr) {
      positional.many->assign(loose.begin() + static_cast<std::ptrdiff_t>(next), loose.end());
      next = loose.size();
    } else if (next < loose.size()) {
      (positional.maybe != nullptr ? positional.maybe->emplace() : *positional.one) = loose[next++];
    } else if (positional.maybe == nullptr) {
      throw Fault{fmt::format("{} is missing ('{} {} --help' tells more)", positional.name,
                              usage_.program, usage_.command)};
    }
  }
  if (next < loose.size()) {
    throw Fault{fmt::format("unexpected word '{}' ('{} {} --help' tells more)", loose[next],
                            usage_.program, usage_.command)};
  }
  return std::nullopt;
}

void CommandLine::unknown_flag(const std::string& word) const {
  std::vector<std::string> names{"--help"};
  for (const Option& option : options_) {
    names.push_back("--" + option.name);
  }
  const std::vector<std::string_view> views(names.begin(), names.end());
  std::string message = unknown_word("flag", word, views);
  if (message.find(';') == std::string::npos) {
    message += fmt::format(" ('{} {} --help' lists the flags)", usage_.program, usage_.command);
  }
  throw Fault{fmt::format("{}: {}", usage_.command, message)};
}

bool CommandLine::given(std::string_view name) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const Option& option) { return option.name == name && option.given; });
}

std::vector<std::string> CommandLine::names() const {
  std::vector<std::string> names;
  for (const Option& option : options_) {
    names.push_back(option.name);
  }
  return names;
}

void CommandLine::leave_out(std::span<const std::string> names) {
  for (Option& option : options_) {
    option.left_out =
        option.left_out || std::find(names.begin(), names.end(), option.name) != names.end();
  }
}

Json CommandLine::echo() const {
  Json inputs = Json::object();
  for (const Positional& positional : positionals_) {
    std::string key = with_underscores(positional.name);
    std::transform(key.begin(), key.end(), key.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    inputs[key] = positional.one != nullptr    ? Json(*positional.one)
                  : positional.many != nullptr ? Json(*positional.many)
                  : *positional.maybe          ? Json(**positional.maybe)
                                               : Json(nullptr);
  }
  for (const Option& option : options_) {
    // How it is written is no input of the result: text and JSON say the same.
    if (option.name != "format" && option.name != "quiet" && option.name != "verbose" &&
        !option.left_out) {
      inputs[option.echo_name] = option.echo();
    }
  }
  return inputs;
}

}  // namespace peakcast::app
