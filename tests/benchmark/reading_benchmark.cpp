#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "sim/trace/byte_source.hpp"
#include "sim/trace/native_format.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/recording_of.hpp"
#include "sim/trace/snapshot.hpp"
#include "sim/trace/trace_summary.hpp"

// Reading speed by format, in recorded entries a second. Files lie in memory, so the disk does not
// count; decompression does. The trace: PEAKCAST_BENCHMARK_TRACE, or a recording that ships, its
// iterations repeated to some 2 million entries.

namespace peakcast {
namespace {

/// `recording` over and over: live buffers are freed at the end of each round.
Trace repeated(const Trace& once, std::size_t entries) {
  const Recording& recording = *once.recording;
  std::vector<AllocatorEvent> live;
  for (const AllocatorEvent& event : recording.events) {
    if (event.action == Action::alloc) {
      live.push_back(event);
    } else if (event.action == Action::free_completed) {
      std::erase_if(live, [&](const AllocatorEvent& x) { return x.address == event.address; });
    }
  }
  Trace out;
  out.streams = once.streams;
  out.recording.emplace();
  std::int64_t time = 0;
  while (out.recording->events.size() < entries) {
    for (std::size_t i = 0; i < recording.events.size(); ++i) {
      out.recording->events.push_back(recording.events[i]);
      const std::int64_t step = i > 0 && !recording.times_us.empty()
                                    ? recording.times_us[i] - recording.times_us[i - 1]
                                    : 1;
      out.recording->times_us.push_back(time += step);
    }
    for (AllocatorEvent event : live) {
      for (const Action action : {Action::free_requested, Action::free_completed}) {
        event.action = action;
        out.recording->events.push_back(event);
        out.recording->times_us.push_back(++time);
      }
    }
  }
  const std::string text = recorded_csv(*out.recording, out.streams, {});
  return std::move(read_trace_bytes(text, "repeated")->trace);
}

const Trace& trace() {
  static const Trace loaded_trace = [] {
    const char* chosen = std::getenv("PEAKCAST_BENCHMARK_TRACE");
    const auto loaded = read_trace(
        chosen != nullptr ? chosen : PEAKCAST_TEST_DATA "/bert_large_fp32_b8_s128.csv.zst");
    constexpr std::size_t kEntries = 2'000'000;
    return repeated(loaded.value().trace, kEntries);
  }();
  return loaded_trace;
}

std::string file_of(TraceFormat format, const std::string& name) {
  switch (format) {
    case TraceFormat::native:
      return native_bytes(trace());
    case TraceFormat::snapshot_pickle:
      return snapshot_pickle(trace()).value();
    default:
      return compressed_for(name, recorded_csv(*trace().recording, trace().streams, {})).value();
  }
}

void read_format(benchmark::State& state, TraceFormat format, const std::string& name) {
  const std::string bytes = file_of(format, name);
  for (auto _ : state) {
    auto loaded = read_trace_bytes(bytes, name);
    if (!loaded) {
      state.SkipWithError(to_string(loaded.error()).c_str());
      break;
    }
    benchmark::DoNotOptimize(loaded->trace.ops.data());
  }
  const auto entries = static_cast<double>(trace().recording->events.size());
  state.counters["entries/s"] =
      benchmark::Counter(entries, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["file_bytes/entry"] = static_cast<double>(bytes.size()) / entries;
  state.counters["memory_bytes/entry"] = static_cast<double>(memory_of(trace()).count()) / entries;
}

BENCHMARK_CAPTURE(read_format, csv, TraceFormat::recorded_csv, "t.csv")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_format, csv_gz, TraceFormat::recorded_csv, "t.csv.gz")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_format, csv_zst, TraceFormat::recorded_csv, "t.csv.zst")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_format, pickle, TraceFormat::snapshot_pickle, "t.pickle")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_format, pkt, TraceFormat::native, "t.pkt")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace peakcast

BENCHMARK_MAIN();
