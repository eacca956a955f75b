#include <csignal>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "allocators/plugin/foreign_process.hpp"
#include "allocators/plugin/plugin.hpp"
#include "sim/app/command.hpp"
#include "sim/app/console.hpp"
#include "sim/trace/byte_source.hpp"

namespace {

constexpr std::string_view kSummary =
    "peakcast tells how much GPU memory a training run will take, where it runs out, and which "
    "allocator policy would have saved it.";

/// Exceptions stop here.
int run(std::span<const std::string> words) {
  try {
    return peakcast::app::dispatch("peakcast", kSummary, peakcast::app::commands(), words);
  } catch (const std::bad_alloc&) {
    peakcast::app::write_error("not enough memory for this input");
  } catch (const std::exception& error) {
    peakcast::app::write_error(error.what());
  }
  return peakcast::app::kBadInput;
}

/// A foreign policy may end its process: then the run has failed, whatever the status says.
int run_with_foreign_policy(std::span<const std::string> words) {
  const peakcast::ForeignRun result = peakcast::run_supervised([&] { return run(words); });
  if (result.failure) {
    peakcast::app::write_error(*result.failure);
    return peakcast::app::kBadInput;
  }
  peakcast::app::write_stdout(result.output);
  return result.status;
}

/// Ends the program as the signal would have, without what it was writing.
void end_by_signal(int signal) {
  peakcast::remove_unfinished_files();
  static_cast<void>(std::signal(signal, SIG_DFL));
  static_cast<void>(std::raise(signal));
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (std::signal(signal, end_by_signal) == SIG_IGN) {
      static_cast<void>(std::signal(signal, SIG_IGN));  // as under nohup
    }
  }
  // A reader that goes away shows as a failed write, which ends the program quietly.
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  return peakcast::names_plugin(words) ? run_with_foreign_policy(words) : run(words);
}
