#include "sim/app/program_run.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

#include <fmt/format.h>

#include "sim/app/command.hpp"

namespace peakcast::app {
namespace {

/// Blocks the signals that would end us, so that they can be waited for beside the program's end.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
      sigaddset(&set, signal);
    }
    pthread_sigmask(SIG_BLOCK, &set, &before);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  sigset_t set{};
  sigset_t before{};
};

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : variables) {
      replaced = replaced || text.starts_with(name + "=");
    }
    if (!replaced) {
      out.push_back(text);
    }
  }
  for (const auto& [name, value] : variables) {
    out.push_back(name + "=" + value);
  }
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) {
    out.push_back(word.data());
  }
  out.push_back(nullptr);
  return out;
}

}  // namespace

ScratchFolder::ScratchFolder() {
  std::error_code error;
  std::string pattern =
      (std::filesystem::temp_directory_path(error) / "peakcast-capture-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    throw Fault{fmt::format("{}: {}", pattern, std::strerror(errno))};
  }
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

ProgramEnd run_program(const std::vector<std::string>& words,
                       const std::vector<std::pair<std::string, std::string>>& variables,
                       bool to_stderr) {
  std::vector<std::string> arguments = words;
  std::vector<std::string> environment = environment_with(variables);
  const BlockedSignals blocked;
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &blocked.before);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  if (to_stderr) {
    posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  }
  pid_t process = 0;
  const int error = posix_spawnp(&process, arguments.front().c_str(), &files, &attributes,
                                 pointers(arguments).data(), pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    throw Fault{fmt::format("{}: {}", arguments.front(), std::strerror(error))};
  }
  ProgramEnd end;
  for (;;) {
    siginfo_t info{};
    const int signal = sigwaitinfo(&blocked.set, &info);
    if (signal == SIGCHLD) {
      int status = 0;
      if (waitpid(process, &status, WNOHANG) == process) {
        constexpr int kKilled = 128;
        end.status = WIFEXITED(status) ? WEXITSTATUS(status) : kKilled + WTERMSIG(status);
        return end;
      }
    } else if (signal > 0) {
      // A terminal's Ctrl-C reaches the program too; asked a second time, it has no choice.
      kill(process, end.interrupted ? SIGKILL : signal);
      end.interrupted = true;
    }
  }
}

}  // namespace peakcast::app
