#include "cuda_check/commands.hpp"

#include <array>
#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "cuda_check/card_gate.hpp"
#include "cuda_check/checked_run.hpp"
#include "cuda_check/cuda_device.hpp"
#include "cuda_check/cuda_streams.hpp"
#include "cuda_check/driver_api.hpp"
#include "cuda_check/gpu_toucher.hpp"
#include "cuda_check/measure_card.hpp"
#include "cuda_check/pool_program.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/console.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/read_trace.hpp"

namespace peakcast {
namespace {

constexpr std::string_view kProgram = "peakcast-cuda-check";

using app::CommandLine;
using app::Fault;
using app::Format;

/// Says so when there is no GPU; the status to end with then.
std::optional<int> without_gpu() {
  if (const std::optional<std::string> reason = no_gpu_reason()) {
    app::write_stderr("peakcast-cuda-check: no GPU to run on: " + *reason + "\n");
    return app::kNoGpu;
  }
  return std::nullopt;
}

int device_command(std::span<const std::string> words) {
  std::optional<std::string> out;
  CommandLine line{{"device", "Measure this card and describe it as --gpu reads it",
                    "device --out my-card.json", kProgram}};
  line.text("out", "FILE", out, "write the description there (default: stdout)");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (const auto status = without_gpu()) {
    return *status;
  }
  line.console().note("measuring; nothing else should use the card for a minute");
  const CardDescription card = measure_card();
  const std::string text = json_text(card_json(card));
  if (!out) {
    app::write_stdout(text);
    return app::kFits;
  }
  std::ofstream file{*out, std::ios::binary};
  file << text;
  file.close();
  if (!file) {
    throw Fault{*out + ": cannot be written"};
  }
  return app::kFits;
}

enum class Addresses : std::uint8_t { modelled, observed };

struct ReplayFlags {
  std::string trace{};
  std::string policy{"pytorch"};
  std::string alloc_conf{};
  std::optional<MemoryLimit> limit{};
  std::optional<Bytes> capacity{};
  Addresses addresses{};
  bool touch{true};
  std::int64_t pause_us{300};
  PlantedBug planted{};
};

constexpr std::array<std::pair<std::string_view, Addresses>, 2> kAddresses{
    {{"modelled", Addresses::modelled}, {"observed", Addresses::observed}}};
constexpr std::array<std::pair<std::string_view, PlantedBug>, 3> kPlantedBugs{
    {{"none", PlantedBug::none},
     {"overlap", PlantedBug::overlap},
     {"early-reuse", PlantedBug::early_reuse}}};

void declare(CommandLine& line, ReplayFlags& flags) {
  line.positional("TRACE", flags.trace, "the trace, of any format; - is stdin");
  line.text("policy", "NAME", flags.policy, "which allocator policy");
  line.text("alloc-conf", "STRING", flags.alloc_conf,
            "the policy's settings (default: the recording's own for the pytorch policy)");
  line.limit(
      "limit", flags.limit,
      "the allocator's own limit, or the part of the card (0.5, 50%; default: the recording's "
      "own)");
  line.size("capacity", flags.capacity, "pretend that the card has only this much memory");
  line.choice<Addresses>("addresses", kAddresses, flags.addresses,
                         "where the simulation's segments lie: by its model of the driver, or "
                         "where this driver put them");
  line.on_off("touch", flags.touch, "fill and check every block with kernels");
  line.number("pause-us", flags.pause_us, "how long a slow consumer is busy before it reads", 0,
              1'000'000);
  line.choice<PlantedBug>("plant", kPlantedBugs, flags.planted,
                          "plant a bug that the touch check must find");
}

struct BothRuns {
  PolicyRun simulated{};
  CheckedRun real{};
  Comparison comparison{};
};

BothRuns run_both(const ReplayFlags& flags, const CommandLine& line, bool stop_at_oom) {
  const LoadedTrace loaded = app::value_or_throw(read_trace(flags.trace));
  const Trace& trace = loaded.trace;
  CheckedRunOptions options;
  options.policy = flags.policy;
  options.policy_options.alloc_conf = flags.alloc_conf;
  if (trace.recording) {
    if (PolicyName::parse(flags.policy).is_pytorch() && !line.given("alloc-conf")) {
      options.policy_options.alloc_conf = trace.recording->alloc_conf;
    }
    options.policy_options.limit = trace.recording->limit;
  }
  options.stop_at_oom = stop_at_oom;
  options.planted = flags.planted;
  if (!flags.touch) {
    options.device_samples = 0;  // asking costs time, and times are what such a run is for
  }

  CudaStreams streams{trace.streams.size()};
  CudaDevice device{streams};
  std::optional<GpuToucher> toucher;
  if (flags.touch) {
    toucher.emplace(streams, std::chrono::microseconds{flags.pause_us});
  }
  const Bytes outside = device.spec().total - device.free_memory();
  DeviceSpec spec = device.spec();
  std::optional<Ballast> ballast;
  if (flags.capacity) {
    if (*flags.capacity > spec.total) {
      throw Fault{"this card has only " + size_text(spec.total)};
    }
    if (*flags.capacity <= outside) {
      throw Fault{size_text(outside) + " of the card are in use before the first allocation"};
    }
    spec.total = *flags.capacity;
    ballast.emplace(*flags.capacity - outside);
  }
  if (flags.limit) {
    options.policy_options.limit = flags.limit->of(spec.total);
  }
  BothRuns both;
  both.real = app::value_or_throw(
      run_checked(trace, device, spec, streams, toucher ? &*toucher : nullptr, options));
  // What the card has left differs from the simulated card's by less than a page of ballast.
  both.simulated = app::value_or_throw(
      run_simulated(trace, spec, spec.total - both.real.run.free_before,
                    flags.addresses == Addresses::observed ? &both.real.given : nullptr, options));
  both.comparison = compare_runs(both.simulated, both.real.run, spec.granularity);
  return both;
}

std::string oom_text(const PolicyRun& run) {
  if (!run.report.oom) {
    return "none";
  }
  return fmt::format("op {}, {}", run.report.oom->op_index,
                     size_text(run.report.oom->out_of_memory.requested));
}

std::string per_call_text(const PolicyRun& run) {
  const std::int64_t calls = run.report.program_ops;
  return calls > 0 ? fmt::format("{} ns", run.host_time.count() / calls) : "-";
}

std::string replay_text(const BothRuns& both) {
  const PolicyRun& simulated = both.simulated;
  const PolicyRun& real = both.real.run;
  Table table{{{"", Table::Align::left}, {"simulated"}, {"real"}}};
  const auto row = [&](std::string name, auto&& of) {
    table.add_row({std::move(name), of(simulated), of(real)});
  };
  row("peak reserved",
      [](const PolicyRun& run) { return size_text(Bytes{run.report.statistics.reserved.peak}); });
  row("reserved at the end", [](const PolicyRun& run) {
    return size_text(Bytes{run.report.statistics.reserved.current});
  });
  row("segments, peak",
      [](const PolicyRun& run) { return count_text(run.report.statistics.segments.peak); });
  row("device steps",
      [](const PolicyRun& run) { return count_text(static_cast<long long>(run.steps.size())); });
  row("device memory in use",
      [](const PolicyRun& run) { return size_text(run.free_before - run.free_after); });
  row("retries",
      [](const PolicyRun& run) { return count_text(run.report.statistics.num_alloc_retries); });
  row("out of memory", oom_text);
  row("time in driver calls", [](const PolicyRun& run) {
    return fmt::format("{} us", count_text(run.report.device_time.count() / 1000));
  });
  table.add_row({"host time per call", "-", per_call_text(real)});
  std::string text = table.text();
  const Comparison& comparison = both.comparison;
  const auto verdict = [&](std::string_view what, bool good, const std::string& more) {
    text += fmt::format("{:<24}{}{}\n", what, good ? "same" : "DIFFERENT", more);
  };
  verdict("segments", comparison.same_segments(),
          comparison.same_segments()
              ? ""
              : fmt::format(" from step {} on", *comparison.first_other_step));
  verdict("reserved", comparison.same_reserved, "");
  std::string others;
  for (const std::string_view name : comparison.other_statistics) {
    others += fmt::format(" {}", name);
  }
  verdict("statistics", comparison.same_statistics(), others);
  verdict("out of memory", comparison.same_oom, "");
  verdict("device memory", comparison.device_agrees(),
          fmt::format(" (off by {} at most, {} allowed)",
                      size_text(comparison.largest_device_difference),
                      size_text(comparison.allowed_device_difference)));
  if (both.real.touch) {
    const TouchReport& touch = *both.real.touch;
    text +=
        fmt::format("{:<24}{} filled, {} checked, ", "touch check",
                    size_text(Bytes{touch.filled_bytes}), size_text(Bytes{touch.verified_bytes}));
    text += touch.bad_words == 0
                ? "no corruption\n"
                : fmt::format("CORRUPT: {} words; first in block {} at byte {}\n", touch.bad_words,
                              touch.first->key, touch.first->offset);
  }
  return text;
}

Json touch_json(const std::optional<TouchReport>& touch) {
  if (!touch) {
    return nullptr;
  }
  Json json{{"filled_bytes", touch->filled_bytes},
            {"verified_bytes", touch->verified_bytes},
            {"bad_words", touch->bad_words},
            {"first", nullptr}};
  if (touch->first) {
    json["first"] = {{"block", touch->first->key}, {"offset_bytes", touch->first->offset}};
  }
  return json;
}

int report(const BothRuns& both, const CommandLine& line, std::string_view command) {
  const bool corrupt = both.real.touch && both.real.touch->bad_words > 0;
  if (line.console().format == Format::json) {
    Json json = report_head(command, line.echo());
    json["simulated"] = run_json(both.simulated);
    json["real"] = run_json(both.real.run);
    json["comparison"] = comparison_json(both.comparison);
    json["touch"] = touch_json(both.real.touch);
    app::write_stdout(json_text(json));
  } else {
    app::write_stdout(replay_text(both));
  }
  return both.comparison.good() && !corrupt ? app::kFits : app::kDoesNotFit;
}

int replay_command(std::span<const std::string> words) {
  ReplayFlags flags;
  CommandLine line{{"replay",
                    "Run a trace through a policy on the real driver, touching all memory, and "
                    "compare with the simulation",
                    "replay run.csv.zst --policy pytorch --alloc-conf expandable_segments:True",
                    kProgram}};
  declare(line, flags);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (const auto status = without_gpu()) {
    return *status;
  }
  return report(run_both(flags, line, false), line, "replay");
}

int oom_command(std::span<const std::string> words) {
  ReplayFlags flags;
  CommandLine line{{"oom",
                    "Find where a trace really runs out of memory under a limit, and hold it "
                    "against the prediction",
                    "oom run.csv.zst --capacity 16GiB", kProgram}};
  declare(line, flags);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (const auto status = without_gpu()) {
    return *status;
  }
  return report(run_both(flags, line, true), line, "oom");
}

constexpr std::array<std::pair<std::string_view, PoolPace>, 3> kPoolPaces{
    {{"waited", PoolPace::waited}, {"passed", PoolPace::passed}, {"idle", PoolPace::idle}}};

/// "4099 of 4099", or with the first allocation that is not as `real`'s.
std::string same_text(const std::vector<PoolAnswer>& real, const std::vector<PoolAnswer>& other) {
  std::size_t same = 0;
  std::optional<std::size_t> first;
  for (std::size_t i = 0; i < real.size(); ++i) {
    if (i < other.size() && real[i] == other[i]) {
      ++same;
    } else if (!first) {
      first = i;
    }
  }
  return fmt::format("{} of {}{}", same, real.size(),
                     first ? fmt::format(", the first other one is {}", *first) : "");
}

int pool_command(std::span<const std::string> words) {
  std::string file;
  PoolPace pace{};
  std::optional<std::string> out;
  CommandLine line{{"pool",
                    "Run a program of stream-ordered allocations on the driver's pool and hold "
                    "each address against the simulated pool",
                    "pool tests/data/pool/random.csv.zst --pace passed", kProgram}};
  line.positional("PROGRAM", file, "the program (pool_program.hpp has its format)");
  line.choice<PoolPace>("pace", kPoolPaces, pace,
                        "the card is held back until the program waits for it, the same without "
                        "asking the driver, or never");
  line.text("out", "FILE", out, "write the program with this card's answers there");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  auto program = read_pool_program(file);
  if (!program) {
    throw Fault{program.error()};
  }
  if (const auto status = without_gpu()) {
    return *status;
  }
  CudaStreams streams{program->streams};
  CudaDevice device{streams};
  std::optional<std::vector<PoolAnswer>> real;
  if (pace == PoolPace::idle) {
    real = run_pool_program(*program, device, [&] { streams.synchronize_device(); });
  } else {
    CardGate gate{streams, program->streams};
    real = run_pool_program(*program, device, [&] { gate.let_go(pace == PoolPace::waited); });
  }
  const auto simulated = simulate_pool_program(*program, pace, device.spec());
  if (!real || !simulated) {
    throw Fault{"the card is too small for this program, or in use"};
  }
  std::string text = fmt::format("{}, {}\nas simulated  {}\n", device.spec().name, to_string(pace),
                                 same_text(*real, *simulated));
  if (const auto recorded = program->answers.find(pace); recorded != program->answers.end()) {
    text += fmt::format("as recorded   {}\n", same_text(*real, recorded->second));
  }
  app::write_stdout(text);
  if (out) {
    program->answers = {{pace, *real}};
    std::ofstream stream{*out, std::ios::binary};
    stream << pool_program_text(*program);
    stream.close();
    if (!stream) {
      throw Fault{*out + ": cannot be written"};
    }
  }
  return *real == *simulated ? app::kFits : app::kDoesNotFit;
}

constexpr std::array<app::Command, 4> kCommands{
    {{"device", "measure this card", device_command},
     {"replay", "run a trace on the real driver and compare with the simulation", replay_command},
     {"oom", "find the real out-of-memory point of a trace", oom_command},
     {"pool", "the driver's stream-ordered pool, address by address", pool_command}}};

}  // namespace

std::span<const app::Command> cuda_check_commands() { return kCommands; }

}  // namespace peakcast
