#include <csignal>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "sim/app/command.hpp"
#include "sim/app/console.hpp"

namespace {

constexpr std::string_view kSummary =
    "peakcast tells how much GPU memory a training run will take, where it runs out, and which\n"
    "allocator policy would have saved it.";

int run(int argc, char** argv) {
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  return peakcast::app::dispatch("peakcast", kSummary, peakcast::app::commands(), words);
}

}  // namespace

/// Exceptions stop here.
int main(int argc, char** argv) {
  // A reader that goes away shows as a failed write, which ends the program quietly.
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    peakcast::app::write_stderr("peakcast: error: not enough memory for this input\n");
  } catch (const std::exception& error) {
    peakcast::app::write_stderr(std::string{"peakcast: error: "} + error.what() + "\n");
  }
  return peakcast::app::kBadInput;
}
