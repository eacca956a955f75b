#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace peakcast::app {

/// A folder of our own under the system's temporary one, gone with this object.
class ScratchFolder {
 public:
  /// Throws Fault when it cannot be made.
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// How a program ended.
struct ProgramEnd {
  int status{};        ///< its exit status; 128 + the signal that killed it
  bool interrupted{};  ///< we were asked to stop (SIGINT, SIGTERM, SIGHUP) and stopped it
};

/// Runs a program with our stdin, stdout and stderr and waits for it. `variables` are added to its
/// environment; `to_stderr`: what it prints goes to our stderr. Throws Fault when it cannot be
/// started.
[[nodiscard]] ProgramEnd run_program(
    const std::vector<std::string>& words,
    const std::vector<std::pair<std::string, std::string>>& variables, bool to_stderr);

}  // namespace peakcast::app
