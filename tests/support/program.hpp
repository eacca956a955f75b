#pragma once

#include <string>
#include <vector>

namespace peakcast::testing_support {

struct ProgramResult {
  int status{};  ///< exit status; 128 + signal when it was killed
  std::string out{};
  std::string err{};
};

/// Runs the peakcast program with these words; `input` is its stdin. Throws when it cannot start.
[[nodiscard]] ProgramResult run_program(const std::vector<std::string>& words,
                                        const std::string& input = "");

/// A file of tests/data.
[[nodiscard]] std::string data_file(const std::string& name);
/// Its bytes, or a test failure.
[[nodiscard]] std::string bytes_of_file(const std::string& path);

/// A fresh folder that goes away with the object.
class ScratchFolder {
 public:
  ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder();
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace peakcast::testing_support
