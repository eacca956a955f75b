#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/device/device.hpp"
#include "sim/device/driver_costs.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// What N requests of one size took from the card, request by request.
struct PageUse {
  Bytes request{};
  std::vector<Bytes> taken_after{};  ///< cumulated, after each request
  std::vector<Address> addresses{};
};

/// A card as it was measured: what a description (sim/device/gpu_description.hpp) takes, but for
/// what a program without frameworks and a second card cannot see, which is borrowed.
struct CardDescription {
  DeviceSpec spec{};
  std::string driver{};   ///< the driver's CUDA version, "13.0"
  std::string runtime{};  ///< the CUDA runtime's version
  std::int64_t multiprocessors{};
  std::int64_t threads_per_multiprocessor{};
  Bytes l2_cache{};

  SimDuration context_creation{};
  Bytes context{};            ///< what the first CUDA call takes from the card
  Bytes shared_page_limit{};  ///< the largest request that shares a page with others
  Bytes unusable{};           ///< what stays free when no further page can be had
  std::vector<PageUse> page_use{};

  DriverCosts driver_costs{};
  SimDuration event_record{};
  SimDuration event_query{};
  SimDuration kernel_turnaround{};  ///< launch of an empty kernel until the host has seen its end

  std::int64_t host_to_device_bytes_per_second{};  ///< from pinned memory
  std::int64_t device_to_host_bytes_per_second{};
  std::int64_t device_bytes_per_second{};  ///< a copy on the card, bytes read and written together
  /// Matrix products, 8192 x 8192 x 8192, through cuBLAS; nullopt: the library was not found.
  std::optional<std::int64_t> fp32_flops_per_second{};
  std::optional<std::int64_t> tf32_flops_per_second{};
  std::optional<std::int64_t> bf16_flops_per_second{};
  std::optional<std::int64_t> fp16_flops_per_second{};
};

/// The largest request whose repetition took less than a page each time; zero when none did.
[[nodiscard]] Bytes shared_page_limit(const std::vector<PageUse>& uses, Bytes page);

/// The addresses' order: "descending", "ascending", or "mixed".
[[nodiscard]] std::string address_order(const std::vector<Address>& addresses);

/// The file that `--gpu FILE` reads.
[[nodiscard]] Json card_json(const CardDescription& card);

}  // namespace peakcast
