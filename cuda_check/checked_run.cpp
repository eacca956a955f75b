#include "cuda_check/checked_run.hpp"

#include <chrono>
#include <memory>
#include <utility>

#include "cuda_check/directed_streams.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/replay.hpp"

namespace peakcast {

Expected<CheckedRun> run_checked(const Trace& trace, Device& device, const DeviceSpec& spec,
                                 Streams& works, Toucher* toucher,
                                 const CheckedRunOptions& options) {
  using Clock = std::chrono::steady_clock;
  RecordedStreams recorded{trace};
  DirectedStreams directed{recorded, works};
  AddressLog log{device, spec};
  CheckedRun result;
  result.run.free_before = device.free_memory();
  auto made =
      make_policy(options.policy, log, trace.recording ? directed : works, options.policy_options);
  if (!made) {
    return made.error();
  }
  const std::unique_ptr<Allocator> policy = std::move(made).value();
  StepLog steps{device, options.device_samples};
  policy->set_sink(&steps);
  BuggyAllocator buggy{*policy, options.planted};
  Allocator* allocator = policy.get();
  if (options.planted != PlantedBug::none) {
    allocator = &buggy;
  }
  ReplayOptions replay_options{.stop_at_oom = options.stop_at_oom};
  if (trace.recording) {
    replay_options.streams = &recorded;
  }
  std::optional<TouchCheck> touch;
  if (toucher != nullptr) {
    touch.emplace(*allocator, *toucher, options.touch);
    allocator = &*touch;
  }
  const Clock::time_point start = Clock::now();
  result.run.report = replay(trace, *allocator, log, replay_options);
  result.run.host_time = std::chrono::duration_cast<SimDuration>(Clock::now() - start);
  if (touch) {
    result.touch = touch->finish();
  }
  result.run.free_after = device.free_memory();
  result.run.steps = steps.take();
  policy->set_sink(nullptr);
  if (result.run.report.fault) {
    return invalid_input(*result.run.report.fault);
  }
  if (touch) {
    touch->clear();
  }
  result.given = log.given();
  return result;
}

Expected<PolicyRun> run_simulated(const Trace& trace, const DeviceSpec& spec, Bytes outside,
                                  const GivenAddresses* given, const CheckedRunOptions& options) {
  RecordedStreams recorded{trace};
  IdleStreams idle;
  std::optional<ObservedAddresses> observed;
  if (given != nullptr) {
    observed.emplace(*given);
  }
  SimulatedDevice device{{.spec = spec,
                          .outside = outside,
                          .kept = spec.granularity,
                          .addresses = observed ? &*observed : nullptr}};
  Streams* streams = &idle;
  if (trace.recording) {
    streams = &recorded;
  }
  auto made = make_policy(options.policy, device, *streams, options.policy_options);
  if (!made) {
    return made.error();
  }
  const std::unique_ptr<Allocator> policy = std::move(made).value();
  StepLog steps{device, options.device_samples};
  policy->set_sink(&steps);
  ReplayOptions replay_options{.stop_at_oom = options.stop_at_oom};
  if (trace.recording) {
    replay_options.streams = &recorded;
  }
  PolicyRun run;
  run.free_before = device.free_memory();
  run.report = replay(trace, *policy, device, replay_options);
  run.free_after = device.free_memory();
  run.steps = steps.take();
  policy->set_sink(nullptr);
  if (run.report.fault) {
    return invalid_input(*run.report.fault);
  }
  return run;
}

}  // namespace peakcast
