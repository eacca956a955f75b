#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "allocators/packing.hpp"
#include "allocators/plugin/plugin.hpp"
#include "allocators/registry.hpp"
#include "sim/app/backend.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/replay_json.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/trace_streams.hpp"
#include "sim/core/size_text.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/read_trace.hpp"

namespace peakcast::app {

int run_compare(std::span<const std::string> words);

namespace {

/// The card of the recordings, when a trace does not say which card it ran on.
constexpr Bytes kUsualCard{85'017'493'504};

/// What is compared: a trace on a card under a limit.
struct Subject {
  const Trace* trace{};
  DeviceSpec device{};
  std::string alloc_conf{};  ///< for pytorch and plug-ins
  std::optional<Bytes> limit{};
  std::optional<Run> run{};  ///< set when the trace was made from run flags
};

struct Row {
  std::string policy{};
  ReplayReport report{};
};

/// PyTorch in both of its shapes among the others.
std::vector<std::string> all_policies() {
  std::vector<std::string> names;
  for (const PolicyEntry& entry : policies()) {
    names.emplace_back(entry.name);
    if (entry.name == "pytorch") {
      names.emplace_back("pytorch+expandable_segments:True");
    }
  }
  return names;
}

bool takes_alloc_conf(std::string_view policy) {
  return is_plugin(policy) || policy.substr(0, policy.find_first_of("@+")) == "pytorch";
}

ReplayReport replay_recorded(const Subject& subject, const std::string& policy) {
  const Trace& trace = *subject.trace;
  PolicyOptions options{.limit = subject.limit};
  if (takes_alloc_conf(policy)) {
    options.alloc_conf = subject.alloc_conf;
  }
  TraceStreams streams{trace, needs_time(policy)};
  // What the recorded allocator asks again lies where it lay; others go their own ways at once.
  std::optional<RecordedAddresses> addresses;
  if (trace.recording && !trace.recording->event_of_op.empty() && policy == "pytorch") {
    addresses.emplace(*trace.recording);
  }
  SimulatedDeviceOptions device_options;
  device_options.spec = subject.device;
  device_options.addresses = addresses ? &*addresses : nullptr;
  device_options.streams = streams.device_streams();
  SimulatedDevice device{device_options};
  const auto allocator = value_or_throw(make_policy(policy, device, streams.streams(), options));
  return replay(trace, *allocator, device, streams.options(addresses ? &*addresses : nullptr));
}

ReplayReport replay_run(const Subject& subject, const std::string& policy) {
  Run run = *subject.run;
  run.policy = policy;
  run.alloc_conf = takes_alloc_conf(policy) ? subject.alloc_conf : "";
  return predict(run, *subject.trace, Time::none).report;
}

std::int64_t device_calls(const DeviceCounts& counts) {
  return counts.acquire + counts.release + counts.reserve + counts.unreserve + counts.create +
         counts.destroy + counts.map + counts.unmap + counts.pool_allocate + counts.pool_free;
}

/// Driver time, and the measured host time of a call of PyTorch's allocator for each request and
/// each free: the policies' own lists are about as long as its.
SimDuration allocator_time(const ReplayReport& report) {
  return report.device_time + TimedReplay{}.allocator_call * report.program_ops;
}

double over_percent(std::int64_t what, Bytes floor) {
  if (floor == Bytes{}) {
    return 0.0;
  }
  // Two decimals, cut in integers so that every platform prints the same.
  const auto hundredths = static_cast<std::int64_t>(
      (static_cast<long double>(what) - static_cast<long double>(floor.count())) * 10000.0L /
      static_cast<long double>(floor.count()));
  return static_cast<double>(hundredths) / 100.0;
}

std::int64_t per_iteration(const ReplayReport& report) {
  const auto iterations = static_cast<std::int64_t>(report.iterations.size());
  return iterations == 0 ? device_calls(report.device_calls)
                         : device_calls(report.device_calls) / iterations;
}

Json row_json(const Row& row, const Subject& subject, Bytes floor) {
  const Statistics& statistics = row.report.statistics;
  Json json;
  json["policy"] = row.policy;
  json["peak_reserved_bytes"] = statistics.reserved.peak;
  json["peak_allocated_bytes"] = statistics.allocated.peak;
  json["over_floor_percent"] = over_percent(statistics.reserved.peak, floor);
  json["device_calls"] = device_calls(row.report.device_calls);
  json["device_calls_per_iteration"] = per_iteration(row.report);
  json["alloc_retries"] = statistics.num_alloc_retries;
  json["ooms"] = statistics.num_ooms;
  json["allocator_time_ns"] = allocator_time(row.report).count();
  json["device_time_ns"] = row.report.device_time.count();
  json["transferred_bytes"] = row.report.transfers.bytes.count();
  json["transfer_time_ns"] = row.report.transfers.time.count();
  json["oom"] = oom_json(row.report, *subject.trace, subject.device, subject.limit);
  return json;
}

std::string oom_text(const ReplayReport& report) {
  if (!report.oom) {
    return "-";
  }
  return report.oom->iteration >= 0 ? fmt::format("iteration {}", report.oom->iteration)
                                    : fmt::format("op {}", report.oom->op_index);
}

std::string ms_text(SimDuration time) {
  return fmt::format("{:.1f}", static_cast<double>(time.count()) / 1e6);
}

Table people_table(const std::vector<Row>& rows, Bytes floor) {
  Table table{{{"policy", Table::Align::left},
               {"reserved"},
               {"over floor"},
               {"device calls"},
               {"an iteration"},
               {"retries"},
               {"allocator ms"},
               {"transfer ms"},
               {"out of memory", Table::Align::left}}};
  for (const Row& row : rows) {
    table.add_row(
        {row.policy, size_text(Bytes{row.report.statistics.reserved.peak}),
         fmt::format("{:.1f} %", over_percent(row.report.statistics.reserved.peak, floor)),
         count_text(device_calls(row.report.device_calls)), count_text(per_iteration(row.report)),
         count_text(row.report.statistics.num_alloc_retries), ms_text(allocator_time(row.report)),
         row.report.transfers.bytes == Bytes{} ? "-" : ms_text(row.report.transfers.time),
         oom_text(row.report)});
  }
  return table;
}

Table programs_table(const std::vector<Row>& rows, Bytes floor, Bytes packed) {
  Table table{{{"policy"},
               {"peak_reserved_bytes"},
               {"over_floor_percent"},
               {"device_calls"},
               {"alloc_retries"},
               {"ooms"},
               {"allocator_time_ns"},
               {"transfer_time_ns"},
               {"oom_op"},
               {"floor_bytes"},
               {"packed_bytes"}}};
  for (const Row& row : rows) {
    const ReplayReport& report = row.report;
    table.add_row({row.policy, std::to_string(report.statistics.reserved.peak),
                   fmt::format("{:.2f}", over_percent(report.statistics.reserved.peak, floor)),
                   std::to_string(device_calls(report.device_calls)),
                   std::to_string(report.statistics.num_alloc_retries),
                   std::to_string(report.statistics.num_ooms),
                   std::to_string(allocator_time(report).count()),
                   std::to_string(report.transfers.time.count()),
                   report.oom ? std::to_string(report.oom->op_index) : "",
                   std::to_string(floor.count()), std::to_string(packed.count())});
  }
  return table;
}

}  // namespace

int run_compare(std::span<const std::string> words) {
  std::vector<std::string> traces;
  std::int64_t pack_steps = PackBudget{}.search_steps;
  CommandLine line{
      {"compare",
       "One trace, or the run that the flags describe, under several policies (all "
       "unless --policy names some), beside the best packing",
       "compare run.csv.zst --policy pytorch,pytorch+expandable_segments:True,gmlake"}};
  line.positionals("TRACE", traces, "a trace of any known format, instead of run flags");
  RunFlags flags{line};
  line.number("pack-steps", pack_steps,
              "what the search for a packing may cost (traces of up to 1000 buffers), in steps of "
              "a few nanoseconds");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (traces.size() > 1) {
    throw Fault{"compare takes one trace"};
  }
  if (traces.empty() == !flags.given()) {
    throw Fault{traces.empty() ? "compare needs a trace or run flags (--model)"
                               : "a trace and run flags exclude one another"};
  }
  const Json echo = line.echo();
  const std::vector<std::string> names = line.given("policy") ? flags.policies() : all_policies();

  Subject subject;
  std::optional<LoadedTrace> loaded;
  std::optional<Trace> generated;
  if (flags.given()) {
    subject.run = flags.run();
    const bool timed = std::any_of(names.begin(), names.end(), needs_time);
    generated = program_of(*subject.run, timed ? Time::simulated : Time::none);
    subject.trace = &*generated;
    subject.device = subject.run->gpu.spec;
    subject.limit = subject.run->limit;
    subject.alloc_conf = subject.run->alloc_conf;
  } else {
    loaded = value_or_throw(read_trace(traces.front()));
    subject.trace = &loaded->trace;
    subject.device.name = "NVIDIA H100 80GB HBM3";
    subject.device.total = kUsualCard;
    subject.device.granularity = Bytes{2 << 20};
    subject.device.compute_major = 9;
    subject.alloc_conf = echo.value("alloc_conf", "");
    if (const auto& recording = loaded->trace.recording) {
      subject.device.total = recording->device_total.value_or(subject.device.total);
      subject.limit = recording->limit;
      if (!line.given("alloc-conf")) {
        subject.alloc_conf = recording->alloc_conf;
      }
    }
    if (line.given("limit")) {
      subject.limit = Bytes{echo.at("limit_bytes").get<std::int64_t>()};
    }
    if (line.given("capacity")) {
      subject.device.total = Bytes{echo.at("capacity_bytes").get<std::int64_t>()};
    }
  }

  if (!line.given("policy") && asks_for_driver_pool(subject.alloc_conf, "")) {
    subject.alloc_conf.clear();  // its pool has a row of its own
  }

  const std::vector<Lifetime> lifetimes = lifetimes_of(*subject.trace);
  Packing packing;
  std::vector<Row> rows(names.size());
  // The packing is the longest job, so it starts first.
  run_jobs(names.size() + 1, 0, [&](std::size_t job) {
    if (job == 0) {
      packing = pack(lifetimes, PackBudget{.search_steps = pack_steps});
      return;
    }
    Row& row = rows[job - 1];
    row.policy = names[job - 1];
    row.report =
        subject.run ? replay_run(subject, row.policy) : replay_recorded(subject, row.policy);
  });
  for (const Row& row : rows) {
    if (row.report.fault) {
      throw Fault{*row.report.fault};
    }
  }

  switch (line.console().format) {
    case Format::json: {
      Json out = report_head("compare", echo);
      out["floor_bytes"] = packing.floor.count();
      out["packed_bytes"] = packing.capacity.count();
      out["packed_proved"] = packing.proved;
      out["pack_steps"] = packing.steps;
      out["limit_bytes"] = bytes_or_null(subject.limit);
      out["capacity_bytes"] = subject.device.total.count();
      out["policies"] = Json::array();
      for (const Row& row : rows) {
        out["policies"].push_back(row_json(row, subject, packing.floor));
      }
      write_stdout(json_text(out));
      break;
    }
    case Format::csv:
      write_stdout(programs_table(rows, packing.floor, packing.capacity).csv());
      break;
    case Format::text:
      write_stdout(
          fmt::format(
              "floor (largest live sum)  {}\npacked (best known ahead) {}, {:.2f} % over{}\n\n",
              size_text(packing.floor), size_text(packing.capacity),
              over_percent(packing.capacity.count(), packing.floor),
              packing.proved ? "; no packing is smaller" : "") +
          people_table(rows, packing.floor).text());
      break;
  }
  return kFits;
}

}  // namespace peakcast::app
