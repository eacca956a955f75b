#include "sim/app/manual.hpp"

#include <algorithm>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/console.hpp"
#include "sim/core/version.hpp"

namespace peakcast::app {
namespace {

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (std::size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

std::string text_of(const Json& row, const char* key) { return row.at(key).get<std::string>(); }

/// The words that a value may be; none for a value of any kind.
std::vector<std::string> choices_of(const Json& flag) {
  const std::string value = text_of(flag, "value");
  const bool words = std::none_of(value.begin(), value.end(),
                                  [](char c) { return (c >= 'A' && c <= 'Z') || c == ','; });
  std::vector<std::string> choices;
  for (std::size_t from = 0; words && value.find('|') != std::string::npos;) {
    const std::size_t to = value.find('|', from);
    choices.push_back(value.substr(from, to - from));
    if (to == std::string::npos) {
      break;
    }
    from = to + 1;
  }
  return choices;
}

/// What lists the names that a flag takes, where a command of ours does.
std::string_view list_of(const Json& flag) {
  const std::string name = text_of(flag, "name");
  return name == "model" ? "models" : name == "gpu" ? "gpus" : name == "policy" ? "policies" : "";
}

/// First words of all pages, each once: "trace" for "trace info".
std::vector<std::string> first_words(const std::vector<ManualPage>& pages) {
  std::vector<std::string> words;
  for (const ManualPage& page : pages) {
    std::string word = page.name.substr(0, page.name.find(' '));
    if (words.empty() || words.back() != word) {
      words.push_back(std::move(word));
    }
  }
  return words;
}

std::vector<std::string> second_words(const std::vector<ManualPage>& pages,
                                      const std::string& first) {
  std::vector<std::string> words;
  for (const ManualPage& page : pages) {
    if (page.name.starts_with(first + " ")) {
      words.push_back(page.name.substr(first.size() + 1));
    }
  }
  return words;
}

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

constexpr std::string_view kNames = " --format csv | tail -n +2 | cut -d, -f1";

/// troff: no line of text begins with a request, no character is one.
std::string troff(const std::string& text) {
  std::string out = replaced(replaced(text, "\\", "\\e"), "-", "\\-");
  return out.starts_with(".") || out.starts_with("'") ? "\\&" + out : out;
}

}  // namespace

std::vector<ManualPage> manual_pages() {
  std::vector<ManualPage> pages;
  // On a thread of its own: the host's output is not ours to take.
  std::thread{[&pages] {
    const auto ask = [&pages](std::vector<std::string> words) {
      std::string name = joined(words);
      words.insert(words.end(), {"--help", "--format", "json"});
      Capture capture{{}};
      static_cast<void>(dispatch("peakcast", "", commands(), words));
      pages.push_back({std::move(name), Json::parse(capture.take_out())});
    };
    for (const Command& command : commands()) {
      const std::string name{command.name};
      if (name != "trace") {
        ask({name});
        continue;
      }
      for (const Command& part : trace_commands()) {
        ask({name, std::string{part.name}});
      }
    }
  }}.join();
  return pages;
}

std::string bash_completion(const std::vector<ManualPage>& pages) {
  std::string text =
      "# bash completion for peakcast; made by 'peakcast completion bash'.\n"
      "_peakcast() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= i\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    [[ ${COMP_WORDS[i]} == -* ]] && break\n"
      "    command+=${command:+ }${COMP_WORDS[i]}\n"
      "    [[ $command == trace ]] || break\n"
      "  done\n"
      "  case $command in\n";
  text += fmt::format("    '') words='{}' ;;\n", joined(first_words(pages)));
  text += fmt::format("    trace) words='{}' ;;\n", joined(second_words(pages, "trace")));
  for (const ManualPage& page : pages) {
    std::string flags;
    std::string values;
    for (const Json& flag : page.help.at("flags")) {
      const std::string name = "--" + text_of(flag, "name");
      flags += name + " ";
      const std::vector<std::string> choices = choices_of(flag);
      if (!choices.empty()) {
        values += fmt::format("        {}) words='{}' ;;\n", name, joined(choices));
      } else if (!list_of(flag).empty()) {
        values +=
            fmt::format("        {}) words=$(peakcast {}{}) ;;\n", name, list_of(flag), kNames);
      } else if (!text_of(flag, "value").empty()) {
        values += fmt::format("        {}) ;;\n", name);
      }
    }
    text += fmt::format(
        "    '{}')\n      case $prev in\n{}        *) [[ $cur == -* ]] && words='{}--help' ;;\n"
        "      esac ;;\n",
        page.name, values, flags);
  }
  return text +
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "}\n"
         "complete -o default -F _peakcast peakcast\n";
}

std::string zsh_completion(const std::vector<ManualPage>& pages) {
  const auto quoted = [](const std::string& text) { return replaced(text, "'", "'\\''"); };
  const auto described = [&](const std::vector<std::string>& words, const std::string& prefix) {
    std::string out;
    for (const std::string& word : words) {
      const auto page = std::find_if(pages.begin(), pages.end(), [&](const ManualPage& candidate) {
        return candidate.name == prefix + word;
      });
      const std::string summary =
          page != pages.end() ? text_of(page->help, "summary") : "Work on traces";
      out += fmt::format(" '{}:{}'", word, quoted(replaced(summary, ":", "\\:")));
    }
    return out;
  };
  std::string text = fmt::format(
      "#compdef peakcast\n# made by 'peakcast completion zsh'\n_peakcast() {{\n"
      "  local -a commands parts\n  commands=({})\n  parts=({})\n"
      "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
      "  local command=$words[2]\n"
      "  if [[ $command == trace ]]; then\n"
      "    if (( CURRENT == 3 )); then _describe command parts; return; fi\n"
      "    command+=\" $words[3]\"; shift words; (( --CURRENT ))\n"
      "  fi\n"
      "  shift words; (( --CURRENT ))\n  case $command in\n",
      described(first_words(pages), ""), described(second_words(pages, "trace"), "trace "));
  for (const ManualPage& page : pages) {
    text += fmt::format("    '{}') _arguments \\\n", page.name);
    for (const Json& flag : page.help.at("flags")) {
      const std::string value = text_of(flag, "value");
      const std::string help =
          replaced(replaced(replaced(text_of(flag, "help"), "\\", "\\\\"), "[", "\\["), "]", "\\]");
      std::string action = "_files";
      if (const std::vector<std::string> choices = choices_of(flag); !choices.empty()) {
        action = "(" + joined(choices) + ")";
      } else if (!list_of(flag).empty()) {
        action = fmt::format("{{compadd -- $(peakcast {}{}); _files}}", list_of(flag), kNames);
      }
      text += fmt::format(
          "      '{}--{}{}[{}]{}' \\\n", flag.at("repeatable").get<bool>() ? "*" : "",
          text_of(flag, "name"), value.empty() ? "" : "=", quoted(help),
          value.empty() ? ""
                        : ":" + replaced(replaced(value, "\\", "\\\\"), ":", "\\:") + ":" + action);
    }
    text += "      '--help[this text]' '*:file:_files' ;;\n";
  }
  return text + "  esac\n}\n_peakcast \"$@\"\n";
}

std::string manual(const std::vector<ManualPage>& pages) {
  std::string text = fmt::format(
      ".TH PEAKCAST 1 \"\" \"peakcast {}\" \"User Commands\"\n.SH NAME\n"
      "peakcast \\- GPU memory of training runs, predicted\n.SH SYNOPSIS\n.B peakcast\n"
      ".I COMMAND\n[\\fIFLAGS\\fR]\n.SH DESCRIPTION\n"
      "Tells how much GPU memory a training run will take, where it runs out, and which allocator\n"
      "policy would have saved it. No GPU is needed.\n.SH COMMANDS\n",
      version());
  for (const ManualPage& page : pages) {
    text += fmt::format(".SS {}\n{}.\n", troff(page.name), troff(text_of(page.help, "summary")));
    for (const Json& word : page.help.at("words")) {
      text += fmt::format(".TP\n.I {}{}\n{}\n", troff(text_of(word, "name")),
                          word.at("many").get<bool>() ? "..." : "", troff(text_of(word, "help")));
    }
    for (const Json& flag : page.help.at("flags")) {
      const std::string standard = text_of(flag, "default");
      const std::string value = text_of(flag, "value");
      text += fmt::format(".TP\n\\fB\\-\\-{}\\fR{}\n{}{}{}\n", troff(text_of(flag, "name")),
                          value.empty() ? "" : " \\fI" + troff(value) + "\\fR",
                          troff(text_of(flag, "help")),
                          flag.at("repeatable").get<bool>() ? " (repeatable)" : "",
                          standard.empty() ? "" : " (default: " + troff(standard) + ")");
    }
    text += fmt::format(".PP\nExample: \\fB{}\\fR\n", troff(text_of(page.help, "example")));
  }
  return text +
         ".SH EXIT STATUS\n"
         ".TP\n0\nit fits; checks pass\n"
         ".TP\n1\nit does not fit, or a check failed\n"
         ".TP\n2\nwrong usage or input\n"
         ".TP\n77\na GPU is needed and there is none\n";
}

}  // namespace peakcast::app
