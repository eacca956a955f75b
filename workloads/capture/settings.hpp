#pragma once

#include <optional>
#include <string>

#include "sim/core/units.hpp"
#include "sim/device/gpu_description.hpp"

namespace peakcast::capture {

// How `peakcast capture` tells the library what to be; the library runs in every process of the
// program, so this is the environment's business.
inline constexpr const char* kDirectoryVariable = "PEAKCAST_CAPTURE_DIRECTORY";
inline constexpr const char* kGpuVariable = "PEAKCAST_CAPTURE_GPU";
inline constexpr const char* kCapacityVariable = "PEAKCAST_CAPTURE_CAPACITY";
inline constexpr const char* kCardsVariable = "PEAKCAST_CAPTURE_CARDS";
inline constexpr const char* kLimitVariable = "PEAKCAST_CAPTURE_LIMIT";
inline constexpr const char* kPartnersVariable = "PEAKCAST_CAPTURE_PARTNERS";
inline constexpr const char* kStacksVariable = "PEAKCAST_CAPTURE_STACKS";

/// What the emulated machine is.
struct Settings {
  std::string directory{};  ///< where each process leaves its log; "" for none
  GpuDescription gpu{};     ///< of every card; the capacity is in spec.total
  int cards{1};
  std::optional<Bytes> limit{};  ///< of PyTorch's allocator, as set_per_process_memory_fraction
  bool stacks{};
  bool partners_in_name{};  ///< this rank's partners are no processes
};

/// From the environment. A variable that makes no sense ends the process with a message: the
/// command that sets them has checked them.
[[nodiscard]] Settings settings_from_environment();

}  // namespace peakcast::capture
