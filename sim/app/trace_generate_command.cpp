#include <sstream>
#include <string>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/trace_output.hpp"
#include "sim/trace/byte_source.hpp"
#include "workloads/generate.hpp"

namespace peakcast::app {

int run_trace_generate(std::span<const std::string> words) {
  std::string to;
  CommandLine line{{"trace generate", "Write the trace of a run that is described by flags",
                    "trace generate bert.pkt --model bert-large --batch 16 --seq 512"}};
  line.positional("TO", to, "the file to write; .gz and .zst compress; - is stdout");
  const TraceOutput output{line};
  std::string graph_path;
  line.text("graph", "FILE", graph_path,
            "also write the operators of one forward pass and their buffers, for Graphviz' dot");
  RunFlags flags{line};
  const EngineFlags engine{line};
  if (const auto status = line.parse(words)) {
    return *status;
  }
  output.check_path(to);
  const auto program = engine.natively([&] {
    const Run run = flags.run();
    if (!graph_path.empty()) {
      std::ostringstream dot;
      value_or_throw(forward_graph(run.spec))->write_graphviz(dot);
      static_cast<void>(value_or_throw(write_file(graph_path, dot.view(), output.overwrites())));
    }
    return program_of(run, Time::simulated);
  });
  if (program) {
    output.write(*program, to);
    return kFits;
  }
  if (!graph_path.empty()) {
    throw Fault{"--graph: only the native engine keeps the operators and their buffers"};
  }
  output.write(captured_trace(line, flags, engine).loaded.trace, to);
  return kFits;
}

}  // namespace peakcast::app
