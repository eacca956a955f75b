#pragma once

#include <string_view>

namespace peakcast::app {

/// The policy that is the driver's pool.
inline constexpr std::string_view kDriverPool = "cuda-malloc-async";

/// PyTorch's settings string also says which allocator runs: under backend:cudaMallocAsync it is
/// the driver's pool. `release` as in "2.6", "" for the newest. False for a string that does not
/// parse: whoever makes the policy says what is wrong with it.
[[nodiscard]] bool asks_for_driver_pool(std::string_view alloc_conf, std::string_view release);

}  // namespace peakcast::app
