// What documents and sources say about the tree: includes point the right way, links lead
// somewhere, and every command of README.md runs.

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace peakcast {
namespace {

namespace fs = std::filesystem;

const fs::path root_folder{PEAKCAST_SOURCE_DIR};

std::string text_of(const fs::path& path) {
  std::ifstream in{path, std::ios::binary};
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in{text};
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

/// "sim/core" for sim's folders, else the top-level folder.
std::string folder_of(std::string_view path) {
  const std::size_t first = path.find('/');
  if (first == std::string_view::npos) {
    return "";
  }
  const bool sim = path.substr(0, first) == "sim";
  return std::string{sim ? path.substr(0, path.find('/', first + 1)) : path.substr(0, first)};
}

/// The chain of the house, left to right: an include stays in its folder or goes to a lower number.
/// The device stands behind the trace (recorded addresses are a trace's), the allocator too (it is
/// given a trace's ops), the program on a real card behind the program's own words.
const std::map<std::string, int>& chain() {
  static const std::map<std::string, int> order{
      {"sim/core", 0},   {"sim/trace", 1},  {"sim/alloc", 2},  {"sim/device", 2},
      {"sim/report", 3}, {"sim/engine", 4}, {"allocators", 5}, {"workloads", 5},
      {"sim/app", 6},    {"cuda_check", 7}, {"tests", 8}};
  return order;
}

struct Source {
  std::string path;  // from the root
  std::vector<std::string> includes;
};

std::vector<Source> sources() {
  std::vector<Source> found;
  for (const char* top : {"sim", "allocators", "workloads", "cuda_check", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator{root_folder / top}) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".cpp" && extension != ".hpp" && extension != ".cu" && extension != ".h") {
        continue;
      }
      Source source{fs::relative(entry.path(), root_folder).generic_string(), {}};
      for (const std::string& line : lines_of(text_of(entry.path()))) {
        constexpr std::string_view kInclude = "#include \"";
        if (line.starts_with(kInclude)) {
          source.includes.push_back(
              line.substr(kInclude.size(), line.rfind('"') - kInclude.size()));
        }
      }
      found.push_back(std::move(source));
    }
  }
  return found;
}

TEST(Includes, AreWrittenFromTheRoot) {
  for (const Source& source : sources()) {
    for (const std::string& include : source.includes) {
      EXPECT_TRUE(fs::exists(root_folder / include)) << source.path << " includes " << include;
    }
  }
}

TEST(Includes, StayInTheirFolderOrPointLeftInTheChain) {
  std::size_t seen = 0;
  for (const Source& source : sources()) {
    const std::string from = folder_of(source.path);
    ASSERT_TRUE(chain().contains(from)) << source.path;
    for (const std::string& include : source.includes) {
      ++seen;
      const std::string to = folder_of(include);
      ASSERT_TRUE(chain().contains(to)) << source.path << " includes " << include;
      EXPECT_TRUE(from == to || chain().at(to) < chain().at(from))
          << source.path << " includes " << include;
    }
  }
  EXPECT_GT(seen, 100U);
}

/// The lines of ```sh blocks.
std::vector<std::string> commands_of(const fs::path& markdown) {
  std::vector<std::string> commands;
  bool inside = false;
  for (const std::string& line : lines_of(text_of(markdown))) {
    if (line.starts_with("```")) {
      inside = !inside && line == "```sh";
    } else if (inside && !line.empty() && !line.starts_with("#")) {
      commands.push_back(line);
    }
  }
  return commands;
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

struct Outcome {
  int status{};
  std::string output{};
};
Outcome shell(const std::string& command) {
  Outcome outcome;
  std::FILE* pipe =
      popen(("cd '" + root_folder.string() + "' && " + command + " 2>&1").c_str(), "r");
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
  const auto presets = nlohmann::json::parse(text_of(root_folder / "CMakePresets.json"));
  for (const auto& preset : presets.at(kind)) {
    if (preset.at("name") == name) {
      return true;
    }
  }
  return false;
}

std::string word_after(const std::string& command, const std::string& word) {
  std::istringstream in{command};
  std::string at;
  while (in >> at) {
    if (at == word && in >> at) {
      return at;
    }
  }
  return "";
}

TEST(Readme, HasCommandsThatRun) {
  const std::vector<std::string> commands = commands_of(root_folder / "README.md");
  EXPECT_GE(commands.size(), 2U);
  for (const std::string& command : commands) {
    for (const std::string& part : parts_of(command)) {
      constexpr std::string_view kProgram = "build/release/peakcast ";
      const std::string first = part.substr(0, part.find(' '));
      if (part.starts_with(kProgram)) {
        const Outcome outcome =
            shell(std::string{PEAKCAST_PROGRAM} + " " + part.substr(kProgram.size()));
        // 1 is an answer: it does not fit.
        EXPECT_TRUE(outcome.status == 0 || outcome.status == 1)
            << part << "\nexits " << outcome.status << ": " << outcome.output;
      } else if (first == "cmake") {
        const char* kind = part.find("--workflow") != std::string::npos ? "workflowPresets"
                           : part.find("--build") != std::string::npos  ? "buildPresets"
                                                                        : "configurePresets";
        const std::string preset =
            word_after(part, part.find("--build") != std::string::npos ? "--build" : "--preset");
        EXPECT_TRUE(has_preset(preset == "--preset" ? word_after(part, "--preset") : preset, kind))
            << part;
      } else if (first == "ctest") {
        EXPECT_TRUE(has_preset(word_after(part, "--preset"), "testPresets")) << part;
      } else if (first == "python3") {
        EXPECT_TRUE(fs::exists(root_folder / word_after(part, "python3"))) << part;
      } else if (first.starts_with("tests/support/")) {
        std::string line = part;
        constexpr std::string_view kBuilt = "build/release/peakcast";
        line.replace(line.find(kBuilt), kBuilt.size(), PEAKCAST_PROGRAM);
        const Outcome outcome = shell(line);
        EXPECT_EQ(outcome.status, 0) << part << ": " << outcome.output;
      } else if (first.starts_with("build/")) {
        ADD_FAILURE() << "README.md runs " << first << ", which this test does not know";
      } else {
        EXPECT_TRUE(fs::exists(root_folder / first)) << part;
      }
    }
  }
}

TEST(Documents, LinkToFilesThatExist) {
  std::vector<fs::path> documents;
  for (const auto& entry : fs::directory_iterator{root_folder}) {
    if (entry.path().extension() == ".md") {
      documents.push_back(entry.path());
    }
  }
  for (const char* top : {"sim", "allocators", "workloads", "cuda_check", "tests", "notebooks"}) {
    for (const auto& entry : fs::recursive_directory_iterator{root_folder / top}) {
      if (entry.path().extension() == ".md") {
        documents.push_back(entry.path());
      }
    }
  }
  for (const fs::path& document : documents) {
    const std::string text = text_of(document);
    for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
      const std::string link = text.substr(at + 2, text.find_first_of(")#", at + 2) - at - 2);
      if (link.empty() || link.find("://") != std::string::npos) {
        continue;
      }
      EXPECT_TRUE(fs::exists(document.parent_path() / link))
          << fs::relative(document, root_folder).string() << " links to " << link;
    }
  }
}

}  // namespace
}  // namespace peakcast
