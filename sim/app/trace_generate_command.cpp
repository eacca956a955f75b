#include <string>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/trace_output.hpp"

namespace peakcast::app {

int run_trace_generate(std::span<const std::string> words) {
  std::string to;
  CommandLine line{{"trace generate", "Write the trace of a run that is described by flags",
                    "trace generate bert.pkt --model bert-large --batch 16 --seq 512"}};
  line.positional("TO", to, "the file to write; .gz and .zst compress; - is stdout");
  const TraceOutput output{line};
  RunFlags flags{line};
  if (const auto status = line.parse(words)) {
    return *status;
  }
  output.write(program_of(flags.run(), Time::simulated), to);
  return kFits;
}

}  // namespace peakcast::app
