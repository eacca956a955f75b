// Prints the program that is generated for a recording's scenario, an op a line:
//     +BUFFER SIZE STREAM LABEL      -BUFFER SIZE STREAM LABEL      # mark
// BUFFER counts allocations from 0. For tests/support/align_recording.py.
#include <cstdio>
#include <string>
#include <vector>

#include "tests/support/recorded_run.hpp"
#include "workloads/generate.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: generate_dump RECORDING.json\n", stderr);
    return 2;
  }
  using namespace peakcast;
  const auto spec = testing::recorded_run(argv[1]);
  if (!spec) {
    std::fprintf(stderr, "%s\n", to_string(spec.error()).c_str());
    return 2;
  }
  const auto trace = generate(*spec);
  if (!trace) {
    std::fprintf(stderr, "%s\n", to_string(trace.error()).c_str());
    return 2;
  }
  struct Live {
    long number;
    long size;
  };
  std::vector<Live> live(trace->buffer_slots);
  long number = 0;
  for (std::size_t i = 0; i < trace->ops.size(); ++i) {
    const Op& op = trace->ops[i];
    const char* label = trace->labels[i] == 0 ? "" : trace->strings[trace->labels[i] - 1].c_str();
    if (op.kind == OpKind::allocate) {
      live[op.id] = {number++, static_cast<long>(op.value)};
      std::printf("+%ld %ld %d %s\n", live[op.id].number, live[op.id].size, op.stream, label);
    } else if (op.kind == OpKind::free) {
      std::printf("-%ld %ld %d %s\n", live[op.id].number, live[op.id].size, op.stream, label);
    } else if (op.kind == OpKind::mark) {
      std::printf("# %s\n", trace->strings[op.id].c_str());
    }
  }
  return 0;
}
