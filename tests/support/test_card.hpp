#pragma once

#include "sim/device/simulated_device.hpp"

namespace peakcast::testing {

/// A card of `total` bytes and nothing on it. Built member by member: g++ 12 takes a temporary of
/// nested designated initialisers for uninitialised.
inline SimulatedDeviceOptions test_card(Bytes total) {
  SimulatedDeviceOptions options;
  options.spec.name = "card";
  options.spec.total = total;
  options.spec.granularity = Bytes{2 << 20};
  options.spec.compute_major = 9;
  return options;
}

}  // namespace peakcast::testing
