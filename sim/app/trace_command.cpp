#include <array>

#include "sim/app/command.hpp"
#include "sim/app/manual.hpp"

namespace peakcast::app {

namespace {
constexpr std::array kTraceCommands{
    Command{"info", "What a trace holds: ops, sizes, streams, how it was recorded", run_trace_info},
    Command{"validate", "Check a trace: it can be read, replayed, and have happened",
            run_trace_validate},
    Command{"convert", "Write a trace in another format", run_trace_convert},
    Command{"diff", "Align two traces: where they part, and what it costs at the peak",
            run_trace_diff},
    Command{"generate", "Write the trace of a run that is described by flags", run_trace_generate},
};
}  // namespace

std::span<const Command> trace_commands() { return kTraceCommands; }

int run_trace(std::span<const std::string> words) {
  return dispatch("peakcast trace", "Work on traces of what a program does to memory.",
                  kTraceCommands, words);
}

}  // namespace peakcast::app
