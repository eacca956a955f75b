#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "allocators/registry.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/trace_output.hpp"
#include "sim/core/size_text.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/device/streams.hpp"
#include "sim/trace/byte_source.hpp"
#include "workloads/generate.hpp"

namespace peakcast::app {
namespace {

/// A trace says what the program does, whatever serves it; but what is said of an allocator must
/// make sense, or it would be believed to be in the file. Throws Fault.
void check_allocator(const CommandLine& line, const RunFlags& flags, const Run& run) {
  static_cast<void>(flags.one_policy("trace generate"));
  PolicyName policy = run.policy;
  if (policy.is_pytorch() && policy.release.empty()) {
    policy.release = run.spec.framework.substr(run.spec.framework.find('-') + 1);
  }
  SimulatedDeviceOptions options;
  options.spec = run.gpu.spec;
  SimulatedDevice device{options};
  IdleStreams streams;
  static_cast<void>(value_or_throw(
      make_policy(policy, device, streams, {.alloc_conf = run.alloc_conf, .limit = run.limit})));
  constexpr Bytes kLeast{std::int64_t{2} << 20};  // PyTorch's smallest segment
  if (run.limit && *run.limit < kLeast) {
    throw Fault{fmt::format("--limit: {} is less than any segment", size_text(*run.limit))};
  }
  for (const std::string_view flag : {"policy", "alloc-conf", "limit"}) {
    if (line.given(flag)) {
      line.console().note(
          fmt::format("--{} is no part of a trace: give it to what replays it", flag));
    }
  }
}

}  // namespace

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
  note_unread_settings(line);
  output.check_path(to);
  const auto program = engine.natively([&] {
    const Run run = flags.run();
    check_allocator(line, flags, run);
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
