#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "cuda_check/address_log.hpp"
#include "sim/alloc/allocator.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// One thing that a policy did with the device, and what the device then had free.
struct DeviceStep {
  Action action{};
  Bytes size{};
  StreamId stream{};
  Address address{};
  std::optional<Bytes> device_free{};  ///< asked of the device; not for every step, it takes time
};

/// Hears a policy's events and keeps those that move device memory, and the out-of-memories.
class StepLog final : public EventSink {
 public:
  /// Asks `device` for its free memory at each of the first `samples` steps. Borrows it.
  StepLog(const Device& device, std::size_t samples) : device_{&device}, samples_{samples} {}
  void on_event(const AllocatorEvent& event) override;
  [[nodiscard]] std::vector<DeviceStep> take() { return std::move(steps_); }

 private:
  const Device* device_;
  std::size_t samples_;
  std::vector<DeviceStep> steps_{};
};

/// A trace through a policy, on whichever device.
struct PolicyRun {
  ReplayReport report{};
  std::vector<DeviceStep> steps{};
  Bytes free_before{};      ///< the device's, before the policy's first call
  Bytes free_after{};       ///< when the trace had ended, with what is then still live
  SimDuration host_time{};  ///< of the whole replay; wall clock for a real device, else zero
};

/// What a simulation and a real run of the same trace and policy have in common.
struct Comparison {
  std::size_t steps{};                            ///< of the real run
  std::optional<std::size_t> first_other_step{};  ///< index of the first that differs
  bool same_reserved{};                           ///< current and peak
  /// Levels and counts of Statistics that differ, by name; empty: none.
  std::vector<std::string_view> other_statistics{};
  bool same_oom{};  ///< none in both, or at the same op for the same request
  /// The largest difference between what the driver says is in use and what the simulated device
  /// says, over all sampled steps and the end; and what is allowed, a page per segment.
  Bytes largest_device_difference{};
  Bytes allowed_device_difference{};
  [[nodiscard]] bool same_segments() const { return !first_other_step; }
  [[nodiscard]] bool same_statistics() const { return other_statistics.empty(); }
  [[nodiscard]] bool device_agrees() const {
    return largest_device_difference <= allowed_device_difference;
  }
  [[nodiscard]] bool good() const {
    return same_segments() && same_reserved && same_statistics() && same_oom && device_agrees();
  }
};

/// `page`: what the driver takes memory in. O(steps).
[[nodiscard]] Comparison compare_runs(const PolicyRun& simulated, const PolicyRun& real,
                                      Bytes page);

/// The parts of a run that reports show.
[[nodiscard]] Json run_json(const PolicyRun& run);
[[nodiscard]] Json comparison_json(const Comparison& comparison);

}  // namespace peakcast
