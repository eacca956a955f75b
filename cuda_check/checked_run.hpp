#pragma once

#include <optional>
#include <string>

#include "allocators/registry.hpp"
#include "cuda_check/comparison.hpp"
#include "cuda_check/touch_check.hpp"
#include "sim/core/error.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What is run, in the simulation and for real alike.
struct CheckedRunOptions {
  std::string policy{"pytorch"};
  PolicyOptions policy_options{};
  bool stop_at_oom{};
  TouchOptions touch{};
  PlantedBug planted{};
  std::size_t device_samples{2000};  ///< how many steps ask the device for its free memory
};

/// A run on a device whose memory can be touched.
struct CheckedRun {
  PolicyRun run{};
  GivenAddresses given{};
  std::optional<TouchReport> touch{};  ///< nullopt: memory was not touched
};

/// Runs `trace` through a policy made on `device` and `works` (the streams that the device's work
/// runs on), touching all memory with `toucher` unless it is null. A recording's streams are
/// directed by what it says (DirectedStreams). `spec` is what the policy is told of the card.
/// The error is the policy's name or settings.
[[nodiscard]] Expected<CheckedRun> run_checked(const Trace& trace, Device& device,
                                               const DeviceSpec& spec, Streams& works,
                                               Toucher* toucher, const CheckedRunOptions& options);

/// The same trace and policy on a simulated card: `spec`, of which `outside` is taken from the
/// start. `given`: addresses to use instead of modelled ones, or null.
[[nodiscard]] Expected<PolicyRun> run_simulated(const Trace& trace, const DeviceSpec& spec,
                                                Bytes outside, const GivenAddresses* given,
                                                const CheckedRunOptions& options);

}  // namespace peakcast
