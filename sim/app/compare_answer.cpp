#include "sim/app/compare_answer.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "allocators/plugin/plugin.hpp"
#include "allocators/registry.hpp"
#include "sim/app/backend.hpp"
#include "sim/app/command.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/app/trace_streams.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/trace/repeat.hpp"

namespace peakcast::app {
namespace {

/// What is compared: a program on a card under a limit.
struct Subject {
  Program trace{};  ///< a recording, too, which used nothing that is known
  DeviceSpec device{};
  std::string alloc_conf{};  ///< for pytorch and plug-ins
  std::optional<Bytes> limit{};
  Bytes outside{};
  TraceFormat format{};  ///< of a trace
  const Run* run{};      ///< null for a trace
  std::vector<std::string> notes{};
};

Subject described(const CompareQuestion& question) {
  const Run& run = *question.run;
  const bool timed = std::any_of(question.policies.begin(), question.policies.end(), needs_time);
  return {.trace = program_of(run, timed ? Time::simulated : Time::none),
          .device = run.gpu.spec,
          .alloc_conf = run.alloc_conf,
          .limit = run.limit,
          .run = &run};
}

Subject recorded(const CompareQuestion& question) {
  LoadedTrace loaded = question.loaded
                           ? *question.loaded
                           : load_trace(question.trace, {.max_memory = question.max_memory});
  Subject subject{.trace = {std::move(loaded.trace)},
                  .device = reference_gpu().spec,
                  .alloc_conf = question.alloc_conf.value_or(""),
                  .outside = question.outside,
                  .format = loaded.format,
                  .notes = std::move(loaded.notes)};
  if (const auto& recording = subject.trace.recording) {
    subject.device.total = recording->device_total.value_or(subject.device.total);
    subject.limit = recording->limit;
    subject.alloc_conf = question.alloc_conf.value_or(recording->alloc_conf);
  }
  if (question.gpu) {
    subject.device = value_or_throw(load_gpu_description(*question.gpu)).spec;
  }
  subject.device.total = checked_capacity(question.capacity.value_or(subject.device.total));
  if (question.limit) {
    subject.limit = question.limit->of(subject.device.total);
  }
  return subject;
}

bool takes_alloc_conf(const PolicyName& policy) {
  return is_plugin(policy.base) || policy.is_pytorch();
}

ReplayReport replay_recorded(const Subject& subject, const PolicyName& policy) {
  const Trace& trace = subject.trace;
  PolicyOptions options{.limit = subject.limit};
  if (takes_alloc_conf(policy)) {
    options.alloc_conf = subject.alloc_conf;
  }
  TraceStreams streams{trace, needs_time(policy)};
  // What the recorded allocator asks again lies where it lay; others go their own ways at once.
  std::optional<RecordedAddresses> addresses;
  if (trace.recording && !trace.recording->event_of_op.empty() && policy.text() == "pytorch") {
    addresses.emplace(*trace.recording);
  }
  SimulatedDeviceOptions device_options;
  device_options.spec = subject.device;
  device_options.outside = subject.outside;
  device_options.addresses = addresses ? &*addresses : nullptr;
  device_options.streams = streams.device_streams();
  SimulatedDevice device{device_options};
  const auto allocator = value_or_throw(make_policy(policy, device, streams.streams(), options));
  return replay(trace, *allocator, device, streams.options(addresses ? &*addresses : nullptr));
}

ReplayReport replay_run(const Subject& subject, const PolicyName& policy) {
  Run run = *subject.run;
  run.policy = policy;
  run.alloc_conf = takes_alloc_conf(policy) ? subject.alloc_conf : "";
  return predict(run, subject.trace, Time::none).report;
}

}  // namespace

std::vector<PolicyName> all_policies() {
  std::vector<PolicyName> names;
  for (const PolicyEntry& entry : policies()) {
    names.push_back({.base = std::string{entry.name}});
    if (entry.name == "pytorch") {
      names.push_back(PolicyName::parse("pytorch+expandable_segments:True"));
    }
  }
  return names;
}

bool CompareAnswer::passed() const {
  return std::none_of(rows.begin(), rows.end(), [](const Row& row) { return row.oom.has_value(); });
}

CompareAnswer answer(const CompareQuestion& question) {
  Subject subject = question.run ? described(question) : recorded(question);
  if (!question.policies_given && asks_for_driver_pool(subject.alloc_conf, "")) {
    subject.alloc_conf.clear();  // its pool has a row of its own
  }
  // Before the repeats: they add nothing to floor and packing but time.
  const std::vector<Lifetime> lifetimes = lifetimes_of(subject.trace);
  if (question.repeat > 0) {
    Trace& trace = subject.trace;  // what the run uses on the card stays
    trace = value_or_throw(repeat_last_iteration(std::move(trace), question.repeat));
  }
  CompareAnswer found{.repeat = question.repeat, .device = subject.device, .limit = subject.limit};
  if (question.run || question.loaded) {
    found.engine = question.run ? "native" : "captured";
  }
  found.rows.resize(question.policies.size());
  // The packing is the longest job, so it starts first.
  run_jobs(found.rows.size() + 1, 0, [&](std::size_t job) {
    if (job == 0 && !question.packs) {
      found.packing.floor = largest_live_sum(lifetimes);
      return;
    }
    if (job == 0) {
      found.packing = pack(lifetimes, PackBudget{.search_steps = question.pack_steps});
      found.packing.offsets.clear();
      return;
    }
    CompareAnswer::Row& row = found.rows[job - 1];
    row.policy = question.policies[job - 1];
    row.report = subject.run != nullptr ? replay_run(subject, row.policy)
                                        : replay_recorded(subject, row.policy);
    row.oom = oom_answer(row.report, subject.trace, subject.device, subject.limit,
                         speaks_as_pytorch(row.policy, subject.format));
  });
  found.notes = std::move(subject.notes);
  for (const CompareAnswer::Row& row : found.rows) {
    if (row.report.fault) {
      throw Fault{*row.report.fault};
    }
  }
  for (const CompareAnswer::Row& row : found.rows) {
    if (row.report.not_resumed) {
      found.notes.push_back(
          fmt::format("the recording began after the program, and {} begins with the buffers that "
                      "were live, not with the heap of that moment ({})",
                      row.policy.text(), *row.report.not_resumed));
    }
  }
  return found;
}

}  // namespace peakcast::app
