#include <csignal>
#include <string>
#include <string_view>
#include <vector>

#include "allocators/plugin/plugin.hpp"
#include "sim/app/command.hpp"
#include "sim/app/foreign_run.hpp"
#include "sim/trace/byte_source.hpp"

namespace {

constexpr std::string_view kSummary =
    "peakcast tells how much GPU memory a training run will take, where it runs out, and which "
    "allocator policy would have saved it.";

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
  const auto run = [&] {
    return peakcast::app::dispatch("peakcast", kSummary, peakcast::app::commands(), words);
  };
  return peakcast::names_plugin(words) ? peakcast::app::supervised(run)
                                       : peakcast::app::guarded(run);
}
