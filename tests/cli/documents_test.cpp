// What documents say about the tree: links and paths lead somewhere, every command in a shell block
// runs, every other one uses commands and flags that exist.

#include <array>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/checkout.hpp"

namespace peakcast {
namespace {

namespace fs = std::filesystem;
using tree::lines_of;
using tree::root;
using tree::text_of;

struct Command {
  std::string document{};
  std::string words{};
  bool runs{};  ///< in a shell block; else it is shown, with files that do not ship
};

constexpr std::string_view kBuilt = "build/release/peakcast ";
constexpr std::string_view kInstalled = "peakcast ";
constexpr std::string_view kOnCard = "peakcast-cuda-check ";

/// What begins with these words is a command; other indented lines are pictures and formats.
bool is_command(std::string_view line) {
  for (const std::string_view program :
       {kBuilt, kInstalled, kOnCard, std::string_view{"build/cuda/"}, std::string_view{"python3 "},
        std::string_view{"cmake "}, std::string_view{"ctest "}, std::string_view{"tests/support/"},
        std::string_view{".ci/"}}) {
    if (line.starts_with(program)) {
      return true;
    }
  }
  return false;
}

/// Shell blocks, indented blocks, and code between backticks, with lines that end in '\' joined.
std::vector<Command> commands_of(const fs::path& markdown) {
  std::vector<Command> commands;
  const std::string name = tree::name_of(markdown);
  bool block = false;
  bool shell = false;
  std::string pending;
  for (const std::string& raw : lines_of(text_of(markdown))) {
    if (raw.starts_with("```")) {
      block = !block;
      shell = block && raw == "```sh";
      continue;
    }
    const std::string line = pending + raw.substr(std::min(raw.find_first_not_of(' '), raw.size()));
    pending.clear();
    if (line.ends_with("\\")) {
      pending = line.substr(0, line.size() - 1);
    } else if (block) {
      if (shell && !line.empty() && !line.starts_with("#")) {
        commands.push_back({name, line, true});
      }
    } else if (raw.starts_with("    ") && is_command(line)) {
      commands.push_back({name, line, false});
    } else {
      for (std::size_t from = line.find('`'); from != std::string::npos;) {
        const std::size_t to = line.find('`', from + 1);
        if (to == std::string::npos) {
          break;
        }
        const std::string code = line.substr(from + 1, to - from - 1);
        if (is_command(code)) {
          commands.push_back({name, code, false});
        }
        from = line.find('`', to + 1);
      }
    }
  }
  return commands;
}

std::vector<Command> all_commands() {
  std::vector<Command> all;
  for (const fs::path& document : tree::files_ending({".md"})) {
    const std::vector<Command> some = commands_of(document);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

std::vector<std::string> parts_of(const std::string& command) {
  std::vector<std::string> parts;
  std::size_t from = 0;
  while (true) {
    const std::size_t at = command.find(" && ", from);
    parts.push_back(command.substr(from, at - from));
    if (at == std::string::npos) {
      return parts;
    }
    from = at + 4;
  }
}

std::vector<std::string> words_of(const std::string& command) {
  std::vector<std::string> words;
  std::istringstream in{command};
  for (std::string word; in >> word;) {
    words.push_back(word);
  }
  return words;
}

struct Outcome {
  int status{};
  std::string output{};
};
Outcome shell(const std::string& command) {
  Outcome outcome;
  std::FILE* pipe = popen(("cd '" + root().string() + "' && " + command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) {
    return {127, "cannot start"};
  }
  std::array<char, 4096> buffer{};
  for (std::size_t got = 1; got != 0;) {
    got = std::fread(buffer.data(), 1, buffer.size(), pipe);
    outcome.output.append(buffer.data(), got);
  }
  const int raw = pclose(pipe);
  outcome.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128;
  return outcome;
}

bool has_preset(const std::string& name, const char* kind) {
  const auto presets = nlohmann::json::parse(text_of(root() / "CMakePresets.json"));
  for (const auto& preset : presets.at(kind)) {
    if (preset.at("name") == name) {
      return true;
    }
  }
  return false;
}

std::string word_after(const std::string& command, const std::string& word) {
  const std::vector<std::string> words = words_of(command);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == word) {
      return words[i + 1];
    }
  }
  return "";
}

/// The flags that `--help` of this command (one or two words) lists; empty: there is none such.
const std::set<std::string>& flags_of(const std::string& command) {
  static std::map<std::string, std::set<std::string>> known;
  const auto [row, fresh] = known.try_emplace(command);
  if (fresh) {
    const Outcome help = shell(std::string{PEAKCAST_PROGRAM} + " " + command + " --help");
    if (help.status == 0) {
      for (const std::string& word : words_of(help.output)) {
        if (word.starts_with("--")) {
          row->second.insert(word.substr(0, word.find_first_of(",=")));
        }
      }
      row->second.insert({"--help", "--format", "--quiet", "--verbose", "--version"});
    }
  }
  return row->second;
}

/// The program's commands and flags exist.
void check_words(const Command& command, const std::string& part) {
  std::vector<std::string> words = words_of(part);
  words.erase(words.begin());
  if (words.empty() || words.front().starts_with("-") || words.front() == "COMMAND") {
    return;
  }
  const std::string name =
      words.front() == "trace" && words.size() > 1 ? "trace " + words[1] : words.front();
  const std::set<std::string>& flags = flags_of(name);
  ASSERT_FALSE(flags.empty()) << command.document << " names the command '" << name << "'";
  for (const std::string& word : words) {
    if (word == "--") {
      break;  // a program of the reader's follows
    }
    if (word.starts_with("--")) {
      EXPECT_TRUE(flags.contains(word.substr(0, word.find('='))))
          << command.document << ": " << part << "\nthere is no " << word;
    }
  }
}

/// A script or program that is not run here: it exists, and its flags stand in its source.
void check_source(const Command& command, const std::string& part, const fs::path& source) {
  ASSERT_TRUE(fs::exists(source)) << command.document << ": " << part;
  const std::string text = text_of(source);
  for (const std::string& word : words_of(part)) {
    if (word.starts_with("--")) {
      EXPECT_NE(text.find(word.substr(2)), std::string::npos)
          << command.document << ": " << part << "\nthere is no " << word;
    }
  }
}

void check_build(const Command& command, const std::string& part) {
  const bool workflow = part.find("--workflow") != std::string::npos;
  const bool build = part.find("--build") != std::string::npos;
  if (part.find("--preset") == std::string::npos) {
    return;  // the reader's own folders
  }
  EXPECT_TRUE(has_preset(word_after(part, "--preset"), workflow ? "workflowPresets"
                                                       : build  ? "buildPresets"
                                                                : "configurePresets"))
      << command.document << ": " << part;
}

TEST(Documents, HaveCommandsThatRunOrWhoseWordsExist) {
  const std::vector<Command> commands = all_commands();
  EXPECT_GE(commands.size(), 30U);
  for (const Command& command : commands) {
    for (const std::string& part : parts_of(command.words)) {
      const std::string first = part.substr(0, part.find(' '));
      if (part.starts_with(kBuilt) && command.runs) {
        const Outcome outcome =
            shell(std::string{PEAKCAST_PROGRAM} + " " + part.substr(kBuilt.size()));
        // 1 is an answer: it does not fit.
        EXPECT_TRUE(outcome.status == 0 || outcome.status == 1)
            << part << "\nexits " << outcome.status << ": " << outcome.output;
      } else if (part.starts_with(kBuilt) || part.starts_with(kInstalled)) {
        check_words(command, part);
      } else if (first == "cmake") {
        check_build(command, part);
      } else if (first == "ctest") {
        EXPECT_TRUE(has_preset(word_after(part, "--preset"), "testPresets")) << part;
      } else if (first == "python3") {
        check_source(command, part, root() / word_after(part, "python3"));
      } else if (first.ends_with("peakcast-cuda-check")) {
        check_source(command, part, root() / "cuda_check/commands.cpp");
      } else if (first.starts_with("build/release/tests/")) {
        EXPECT_TRUE(fs::exists(root() / (first.substr(14) + ".cpp"))) << part;
      } else if (first.starts_with("tests/support/") && command.runs) {
        std::string line = part;
        line.replace(line.find(kBuilt.substr(0, kBuilt.size() - 1)), kBuilt.size() - 1,
                     PEAKCAST_PROGRAM);
        const Outcome outcome = shell(line);
        EXPECT_EQ(outcome.status, 0) << part << ": " << outcome.output;
      } else if (first.starts_with("build/")) {
        ADD_FAILURE() << command.document << " runs " << first << ", which this test does not know";
      } else if (command.runs || first.starts_with("tests/") || first.starts_with(".ci/")) {
        EXPECT_TRUE(fs::exists(root() / first)) << command.document << ": " << part;
      }
    }
  }
}

TEST(Documents, ReadmeIsOfAPageAndAHalf) {
  EXPECT_LE(lines_of(text_of(root() / "README.md")).size(), 120U);
}

TEST(Documents, LinkToFilesThatExist) {
  std::size_t seen = 0;
  for (const fs::path& document : tree::files_ending({".md"})) {
    const std::string text = text_of(document);
    for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
      const std::string link = text.substr(at + 2, text.find_first_of(")#", at + 2) - at - 2);
      if (link.empty() || link.find("://") != std::string::npos) {
        continue;
      }
      ++seen;
      EXPECT_TRUE(fs::exists(document.parent_path() / link))
          << tree::name_of(document) << " links to " << link;
    }
  }
  EXPECT_GT(seen, 20U);
}

/// `path/to/file.hpp` between backticks, from the root or from the document's own folder.
TEST(Documents, NamePathsThatExist) {
  std::size_t seen = 0;
  for (const fs::path& document : tree::files_ending({".md"})) {
    const std::string text = text_of(document);
    for (std::size_t from = text.find('`'); from != std::string::npos;) {
      const std::size_t to = text.find('`', from + 1);
      if (to == std::string::npos) {
        break;
      }
      const std::string path = text.substr(from + 1, to - from - 1);
      from = text.find('`', to + 1);
      const bool source = path.ends_with(".cpp") || path.ends_with(".hpp") ||
                          path.ends_with(".h") || path.ends_with(".md") || path.ends_with(".py");
      if (!source || path.find('/') == std::string::npos ||
          path.find_first_of(" *<{") != std::string::npos || path.starts_with("../shared")) {
        continue;
      }
      ++seen;
      EXPECT_TRUE(fs::exists(root() / path) || fs::exists(document.parent_path() / path))
          << tree::name_of(document) << " names " << path;
    }
  }
  EXPECT_GT(seen, 20U);
}

}  // namespace
}  // namespace peakcast
