#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/device/device.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// A latency at one size: the median of several calls.
struct MeasuredCost {
  Bytes size{};
  SimDuration cost{};
};

/// What N requests of one size took from the card, request by request.
struct PageUse {
  Bytes request{};
  std::vector<Bytes> taken_after{};  ///< cumulated, after each request
  std::vector<Address> addresses{};
};

/// A card as it was measured: everything that the simulated device and the cost model ask for.
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

  std::vector<MeasuredCost> acquire{};
  std::vector<MeasuredCost> release{};
  std::vector<MeasuredCost> create{};
  std::vector<MeasuredCost> map{};
  std::vector<MeasuredCost> set_access{};
  SimDuration set_access_mapping{};  ///< per further mapping in one cuMemSetAccess's range
  std::vector<MeasuredCost> unmap{};
  std::vector<MeasuredCost> destroy{};
  std::vector<MeasuredCost> pool_grow{};
  SimDuration pool_hit{};
  SimDuration pool_free{};
  SimDuration event_record{};
  SimDuration event_query{};
  SimDuration kernel_launch{};      ///< host time of one launch into an idle stream
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
