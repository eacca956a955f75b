#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace peakcast::tree {

/// The checkout that the test was built from.
[[nodiscard]] inline std::filesystem::path root() { return PEAKCAST_SOURCE_DIR; }

[[nodiscard]] inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream in{path, std::ios::binary};
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

[[nodiscard]] inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in{text};
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

/// `path` as the tree names it: from the root, with '/'.
[[nodiscard]] inline std::string name_of(const std::filesystem::path& path) {
  return std::filesystem::relative(path, root()).generic_string();
}

/// The files of the tree's folders (and of its root) with one of these endings, in no order.
[[nodiscard]] inline std::vector<std::filesystem::path> files_ending(
    const std::vector<std::string_view>& endings) {
  namespace fs = std::filesystem;
  std::vector<fs::path> found;
  const auto keep = [&](const fs::path& path) {
    for (const std::string_view ending : endings) {
      if (path.extension() == ending) {
        found.push_back(path);
      }
    }
  };
  for (const auto& entry : fs::directory_iterator{root()}) {
    keep(entry.path());
  }
  for (const char* top : {"sim", "allocators", "workloads", "cuda_check", "tests", "notebooks"}) {
    for (const auto& entry : fs::recursive_directory_iterator{root() / top}) {
      keep(entry.path());
    }
  }
  return found;
}

}  // namespace peakcast::tree
