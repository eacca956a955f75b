#include <csignal>
#include <string>
#include <vector>

#include "allocators/plugin/plugin.hpp"
#include "cuda_check/commands.hpp"
#include "cuda_check/driver_api.hpp"
#include "sim/app/command.hpp"
#include "sim/app/console.hpp"
#include "sim/app/foreign_run.hpp"

namespace {
constexpr const char* kProgram = "peakcast-cuda-check";
}  // namespace

/// A driver that fails is a check that failed; everything else is the input.
int main(int argc, char** argv) {
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  const auto run = [&] {
    try {
      return peakcast::app::dispatch(
          kProgram,
          "peakcast-cuda-check runs peakcast's policies on a real GPU and holds its predictions\n"
          "against what the driver does. Without a GPU it ends with status 77.",
          peakcast::cuda_check_commands(), words);
    } catch (const peakcast::DriverError& error) {
      peakcast::app::write_stderr(std::string{kProgram} + ": driver: " + error.what() + "\n");
      return peakcast::app::kDoesNotFit;
    }
  };
  // The child sets CUDA up, not this process: what is set up before a fork is of no use after it.
  return peakcast::names_plugin(words) ? peakcast::app::supervised(run, false, kProgram)
                                       : peakcast::app::guarded(run, kProgram);
}
