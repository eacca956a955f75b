#include "sim/app/replay_answer.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "allocators/pytorch/settings.hpp"
#include "allocators/registry.hpp"
#include "sim/app/backend.hpp"
#include "sim/app/command.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/load_trace.hpp"
#include "sim/app/trace_streams.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/run_log.hpp"
#include "sim/trace/repeat.hpp"

namespace peakcast::app {
namespace {

/// "2.11.0+cu130" -> "2.11"; "" when it has another form.
std::string release_of(std::string_view framework) {
  const std::size_t first = framework.find('.');
  if (first == std::string_view::npos) {
    return "";
  }
  const std::size_t second = framework.find('.', first + 1);
  return std::string{framework.substr(0, second)};
}

bool records_device_calls(const Trace& trace) {
  return trace.recording && std::any_of(trace.recording->events.begin(),
                                        trace.recording->events.end(), [](const AllocatorEvent& e) {
                                          return e.action == Action::segment_alloc ||
                                                 e.action == Action::segment_map;
                                        });
}

/// Where the flag names none: what the settings ask for, of the recording's own release where that
/// is known.
PolicyName policy_for(ReplayAnswer& found) {
  const ReplayQuestion& question = found.question;
  if (question.policy_given) {
    return question.policy;
  }
  const auto& recording = found.loaded.trace.recording;
  std::string release = recording ? release_of(recording->framework) : "";
  if (!release.empty() && !pytorch::find_version(release)) {
    found.warnings.push_back(
        fmt::format("PyTorch {} recorded this; the newest release known is used", release));
    release.clear();
  }
  if (asks_for_driver_pool(found.alloc_conf, release)) {
    return {.base = std::string{kDriverPool}};
  }
  PolicyName name = question.policy;
  name.release = release;
  return name;
}

/// Puts recording and flags together.
void settle(ReplayAnswer& found) {
  const ReplayQuestion& question = found.question;
  const auto& recording = found.loaded.trace.recording;
  const bool has_calls = records_device_calls(found.loaded.trace);
  if (!has_calls && question.addresses_given && question.addresses == Addresses::recorded) {
    throw Fault{question.trace + ": holds no recorded addresses of device memory"};
  }
  if (question.verify && !recording) {
    throw Fault{question.trace + ": holds no recorded allocator events to verify against"};
  }
  // One that began late has at least the addresses of what was there before.
  const bool has_addresses =
      has_calls || (recording && !recording->segments.empty() && !recording->event_of_op.empty());
  found.recorded_addresses = has_addresses && question.addresses == Addresses::recorded;

  // The recorded settings are PyTorch's: other policies have no use for them.
  found.alloc_conf = question.alloc_conf                         ? *question.alloc_conf
                     : recording && question.policy.is_pytorch() ? recording->alloc_conf
                                                                 : "";
  found.device = reference_gpu().spec;  // unless the trace tells its card
  if (recording && recording->device_total) {
    found.device.name = "recorded";
    found.device.total = *recording->device_total;
  }
  if (question.gpu) {
    found.device = value_or_throw(load_gpu_description(*question.gpu)).spec;
  }
  found.device.total = checked_capacity(question.capacity.value_or(found.device.total));
  found.limit = question.limit ? question.limit->of(found.device.total)
                : recording    ? recording->limit
                               : std::nullopt;

  found.policy = policy_for(found);
  if (found.policy.base == kDriverPool && asks_for_driver_pool(found.alloc_conf, "")) {
    found.alloc_conf.clear();  // it said which allocator runs, and no more
  }
}

}  // namespace

ReplayAnswer settled(const ReplayQuestion& question, LoadedTrace loaded) {
  ReplayAnswer found{.question = question, .loaded = std::move(loaded)};
  found.warnings = found.loaded.notes;
  if (question.repeat > 0) {
    if (question.verify) {
      throw Fault{"--verify and --repeat exclude one another: nothing recorded the repeats"};
    }
    found.loaded.trace =
        value_or_throw(repeat_last_iteration(std::move(found.loaded.trace), question.repeat));
  }
  settle(found);
  return found;
}

void replay_into(ReplayAnswer& found, const PolicyWatch& watch) {
  const ReplayQuestion& question = found.question;
  const Trace& trace = found.loaded.trace;
  TraceStreams streams{trace, needs_time(found.policy)};
  std::optional<RecordedAddresses> addresses;
  if (found.recorded_addresses) {
    addresses.emplace(*trace.recording);
  }
  SimulatedDevice device{{.spec = found.device,
                          .outside = question.outside,
                          .addresses = addresses ? &*addresses : nullptr,
                          .streams = streams.device_streams()}};
  const auto allocator =
      value_or_throw(make_policy(found.policy, device, streams.streams(),
                                 {.alloc_conf = found.alloc_conf, .limit = found.limit}));

  RunLog log{trace};
  const bool keeps_run = question.keep_run || question.keep_page;
  const bool keeps = question.keep_events || keeps_run;
  std::optional<Listener> listener;
  if (question.verify) {
    listener.emplace(*trace.recording, found.recorded_addresses, keeps ? &log : nullptr);
    allocator->set_sink(&*listener);
  } else if (keeps) {
    log.follow(*allocator);
  }
  ReplayOptions options = streams.options(addresses ? &*addresses : nullptr);
  options.observer = keeps ? &log : nullptr;
  Allocator& watched = watch ? watch(*allocator) : *allocator;
  found.report = replay(trace, watched, device, options);
  if (found.report.fault) {
    throw Fault{*found.report.fault};
  }
  if (found.report.not_resumed) {
    found.warnings.push_back(
        fmt::format("the recording began after the program, and the replay begins with the buffers "
                    "that were live, not with the heap of that moment ({})",
                    *found.report.not_resumed));
  } else if (trace.recording && trace.recording->head_lost &&
             found.alloc_conf.find("garbage_collection_threshold") != std::string::npos) {
    found.warnings.emplace_back(
        "the recording began after the program: how long what was cached then had lain unused is "
        "not known, and garbage collection goes by that");
  }
  found.oom = oom_answer(found.report, trace, found.device, found.limit,
                         speaks_as_pytorch(found.policy, found.loaded.format));
  if (addresses) {
    found.address_use = {addresses->parted_at(), addresses->refusals().size()};
  }
  if (question.verify) {
    found.verification = listener->verification(*allocator);
  }
  if (keeps_run) {
    found.run = recorded_run(trace, log, found.alloc_conf);
  }
  if (question.keep_page) {
    found.page = drawn(trace, log, found.run);
    found.page.name = found.policy.text();
    found.page.limit = found.limit;
    found.page.capacity = found.device.total;
  }
  if (question.keep_events) {
    found.events.events = std::move(log).take_events();
  }
}

ReplayAnswer settled(const ReplayQuestion& question) {
  return settled(question, load_trace(question.trace, {.max_memory = question.max_memory,
                                                       .device = question.device}));
}

Bytes checked_capacity(Bytes capacity) {
  constexpr Bytes kMost{std::int64_t{1} << 46};  // no card is near
  if (capacity < Bytes{1} || capacity > kMost) {
    throw Fault{"a card's memory must be in 1 B..64 TiB (--capacity)"};
  }
  return capacity;
}

ReplayAnswer answer(const ReplayQuestion& question) {
  ReplayAnswer found = settled(question);
  replay_into(found);
  return found;
}

ReplayAnswer answer(const ReplayQuestion& question, LoadedTrace loaded) {
  ReplayAnswer found = settled(question, std::move(loaded));
  replay_into(found);
  return found;
}

}  // namespace peakcast::app
