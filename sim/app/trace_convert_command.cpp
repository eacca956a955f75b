#include <optional>
#include <string>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/app/trace_output.hpp"

namespace peakcast::app {

int run_trace_convert(std::span<const std::string> words) {
  std::string from;
  std::string to;
  std::optional<std::int64_t> device;
  CommandLine line{{"trace convert", "Write a trace in another format",
                    "trace convert snapshot.pickle run.pkt"}};
  line.positional("FROM", from, "the trace, of any known format; - is stdin");
  line.positional("TO", to,
                  "the file to write; .gz and .zst compress; - is stdout. Beside a CSV, NAME.json "
                  "takes what it cannot hold");
  const TraceOutput output{line};
  std::optional<Bytes> max_memory;
  line.size("max-memory", max_memory,
            "what reading the trace may take; 256 MiB and 4 KiB a byte of it unless given");
  line.number("device", device, "whose entries, of a snapshot with several devices");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  output.write(load_trace(from, {.max_memory = max_memory, .device = device}).trace, to);
  return kFits;
}

}  // namespace peakcast::app
