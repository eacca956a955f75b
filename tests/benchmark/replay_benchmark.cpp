#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/resource.h>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "allocators/pytorch/caching_allocator.hpp"
#include "allocators/registry.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/trace/read_trace.hpp"

// What an operation (an allocation or a free) costs: of a policy alone, of a replay, of a replay
// with reading, and how that grows with the length of a trace.
//
// The trace: PEAKCAST_BENCHMARK_TRACE, or a recording that ships. It is shown in the context.
// Times are the process's CPU time (cpu_time): the benchmarks run on one thread, and other work on
// the machine counts less. `per_op` is that over the operations.

namespace peakcast {
namespace {

std::string trace_path() {
  const char* chosen = std::getenv("PEAKCAST_BENCHMARK_TRACE");
  return chosen != nullptr ? chosen : PEAKCAST_TEST_DATA "/bert_large_fp32_b8_s128.csv.zst";
}

const Trace& trace() {
  static const Trace loaded_trace = [] {
    Expected<LoadedTrace> loaded = read_trace(trace_path());
    if (!loaded) {
      std::fputs((to_string(loaded.error()) + "\n").c_str(), stderr);
      std::exit(2);
    }
    return std::move(loaded->trace);
  }();
  return loaded_trace;
}

/// Allocations and frees of one stream, no marks; what lives at the end is freed, so that the
/// program can be repeated.
std::vector<Op> program() {
  std::vector<Op> ops;
  std::map<std::uint32_t, Op> live;  // ordered: the same program every time
  for (const Op& op : trace().ops) {
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      Op allocation = op;
      allocation.stream = 0;
      live[op.id] = allocation;
      ops.push_back(allocation);
    } else if (op.kind == OpKind::free && live.erase(op.id) != 0) {
      ops.push_back(op);
    }
  }
  for (const auto& [id, op] : live) {
    ops.push_back(Op{.id = id, .kind = OpKind::free});
  }
  return ops;
}

/// The program over and over, cut at `count` ops.
Trace repeated(std::size_t count) {
  const std::vector<Op> once = program();
  Trace out;
  out.buffer_slots = trace().buffer_slots;
  out.recording.emplace();  // as a recording: no categories
  out.ops.reserve(count);
  while (out.ops.size() < count) {
    const std::size_t take = std::min(once.size(), count - out.ops.size());
    out.ops.insert(out.ops.end(), once.begin(), once.begin() + static_cast<std::ptrdiff_t>(take));
  }
  return out;
}

/// A card on which nothing runs out, with a policy.
class Bench {
 public:
  explicit Bench(const std::string& policy) : device_{options()} {
    Expected<std::unique_ptr<Allocator>> made = make_policy(policy, device_, streams_, {});
    if (made) {
      allocator_ = std::move(*made);
    }
  }
  [[nodiscard]] bool ready() const { return allocator_ != nullptr; }
  Allocator& allocator() { return *allocator_; }
  SimulatedDevice& device() { return device_; }

 private:
  static SimulatedDeviceOptions options() {
    SimulatedDeviceOptions options;
    options.spec.total = Bytes{std::int64_t{192} << 30};
    options.spec.granularity = Bytes{2 << 20};
    return options;
  }
  IdleStreams streams_{};
  SimulatedDevice device_;
  std::unique_ptr<Allocator> allocator_{};
};

void report(benchmark::State& state, std::int64_t ops) {
  state.counters["per_op"] =
      benchmark::Counter(static_cast<double>(ops), benchmark::Counter::kIsIterationInvariantRate |
                                                       benchmark::Counter::kInvert);
}

/// A policy alone, warm: its blocks are there from the round before.
void policy_alone(benchmark::State& state, const std::string& policy) {
  const std::vector<Op> ops = program();
  std::vector<BlockId> blocks(trace().buffer_slots);
  Bench bench{policy};
  if (!bench.ready()) {
    state.SkipWithError("no such policy");
    return;
  }
  Allocator& allocator = bench.allocator();
  const auto round = [&] {
    for (const Op& op : ops) {
      if (op.kind == OpKind::allocate) {
        const AllocOutcome outcome = allocator.allocate(AllocRequest{.size = Bytes{op.value}});
        blocks[op.id] = std::get<Placement>(outcome).block;
      } else {
        allocator.deallocate(blocks[op.id]);
      }
    }
  };
  round();
  for (auto _ : state) {
    round();
  }
  report(state, static_cast<std::int64_t>(ops.size()));
}

/// The decoded trace as it is, from an empty card.
void replay_decoded(benchmark::State& state) {
  std::int64_t ops = 0;
  for (auto _ : state) {
    Bench bench{"pytorch"};
    ops = replay(trace(), bench.allocator(), bench.device()).program_ops;
  }
  report(state, ops);
}

/// From the file to the report.
void replay_from_file(benchmark::State& state) {
  std::int64_t ops = 0;
  for (auto _ : state) {
    const Expected<LoadedTrace> loaded = read_trace(trace_path());
    Bench bench{"pytorch"};
    ops = replay(loaded->trace, bench.allocator(), bench.device()).program_ops;
  }
  report(state, ops);
}

/// 10^4 to 10^8 operations. `peak_rss_MiB` is the process's so far: 16 bytes an op and little else.
void growth(benchmark::State& state) {
  const Trace grown = repeated(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    Bench bench{"pytorch"};
    benchmark::DoNotOptimize(replay(grown, bench.allocator(), bench.device()));
  }
  report(state, state.range(0));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  state.counters["trace_bytes_per_op"] = sizeof(Op);
  state.counters["peak_rss_MiB"] = static_cast<double>(usage.ru_maxrss) / 1024;
}

void register_all() {
  for (const PolicyEntry& policy : policies()) {
    if (!Bench{std::string{policy.name}}.ready()) {
      continue;  // one that needs options
    }
    benchmark::RegisterBenchmark(("policy_alone/" + std::string{policy.name}).c_str(), policy_alone,
                                 std::string{policy.name})
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("replay_decoded", replay_decoded)->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("replay_from_file", replay_from_file)->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("growth", growth)
      ->RangeMultiplier(10)
      ->Range(10'000, 100'000'000)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace
}  // namespace peakcast

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 2;
  }
  benchmark::AddCustomContext("trace", peakcast::trace_path());
  peakcast::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
