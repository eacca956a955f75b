#include "tests/support/program.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <spawn.h>
#include <stdexcept>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

namespace peakcast::testing_support {

ProgramResult run_program(const std::vector<std::string>& words, const std::string& input) {
  const ScratchFolder scratch;
  std::ofstream{scratch.file("in"), std::ios::binary} << input;
  std::vector<std::string> all{PEAKCAST_PROGRAM};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> argv;
  argv.reserve(all.size() + 1);
  for (std::string& word : all) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  constexpr int kMode = 0600;
  const std::string in = scratch.file("in");
  const std::string out = scratch.file("out");
  const std::string err = scratch.file("err");
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT, kMode);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, kMode);
  pid_t child{};
  const int failed = posix_spawn(&child, argv.front(), &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (failed != 0) {
    throw std::runtime_error{"cannot start " + all.front()};
  }
  int status{};
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), bytes_of_file(out),
          bytes_of_file(err)};
}

std::string data_file(const std::string& name) {
  return std::string{PEAKCAST_TEST_DATA} + "/" + name;
}

std::string bytes_of_file(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  if (!file) {
    throw std::runtime_error{"cannot read " + path};
  }
  return {std::istreambuf_iterator<char>{file}, {}};
}

ScratchFolder::ScratchFolder()
    : path_{(std::filesystem::temp_directory_path() / "peakcast-test-XXXXXX").string()} {
  if (::mkdtemp(path_.data()) == nullptr) {
    throw std::runtime_error{"cannot make a scratch folder"};
  }
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace peakcast::testing_support
