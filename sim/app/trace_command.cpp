#include <array>

#include "sim/app/command.hpp"

namespace peakcast::app {

int run_trace_info(std::span<const std::string> words);

namespace {
constexpr std::array<Command, 1> kTraceCommands{
    {{"info", "What a trace holds: ops, sizes, streams, how it was recorded", run_trace_info}}};
}  // namespace

int run_trace(std::span<const std::string> words) {
  return dispatch("peakcast trace", "Work on traces of what a program does to memory.",
                  kTraceCommands, words);
}

}  // namespace peakcast::app
