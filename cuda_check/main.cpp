#include <csignal>
#include <exception>
#include <string>
#include <vector>

#include "cuda_check/commands.hpp"
#include "cuda_check/driver_api.hpp"
#include "sim/app/command.hpp"
#include "sim/app/console.hpp"

namespace {
constexpr const char* kProgram = "peakcast-cuda-check";
}  // namespace

/// Exceptions stop here. A driver that fails is a check that failed; everything else is the input.
int main(int argc, char** argv) {
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  try {
    const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
    return peakcast::app::dispatch(
        "peakcast-cuda-check",
        "peakcast-cuda-check runs peakcast's policies on a real GPU and holds its predictions\n"
        "against what the driver does. Without a GPU it ends with status 77.",
        peakcast::cuda_check_commands(), words);
  } catch (const peakcast::DriverError& error) {
    peakcast::app::write_stderr(std::string{"peakcast-cuda-check: driver: "} + error.what() + "\n");
    return peakcast::app::kDoesNotFit;
  } catch (const std::bad_alloc&) {
    peakcast::app::write_error("not enough memory for this input", kProgram);
  } catch (const std::exception& error) {
    peakcast::app::write_error(error.what(), kProgram);
  }
  return peakcast::app::kBadInput;
}
