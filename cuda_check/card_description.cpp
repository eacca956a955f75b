#include "cuda_check/card_description.hpp"

#include <algorithm>
#include <functional>

#include "sim/report/gpu_json.hpp"

namespace peakcast {
namespace {

/// Zero is what was not measured.
Json known(std::int64_t figure) { return figure > 0 ? Json(figure) : Json(nullptr); }

Json rate_or_null(const std::optional<std::int64_t>& rate) {
  return rate ? Json(*rate) : Json(nullptr);
}

}  // namespace

Bytes shared_page_limit(const std::vector<PageUse>& uses, Bytes page) {
  Bytes limit{};
  for (const PageUse& use : uses) {
    const auto requests = static_cast<std::int64_t>(use.taken_after.size());
    if (requests > 1 && use.taken_after.back() < page * requests) {
      limit = std::max(limit, use.request);
    }
  }
  return limit;
}

std::string address_order(const std::vector<Address>& addresses) {
  if (std::is_sorted(addresses.begin(), addresses.end())) {
    return "ascending";
  }
  if (std::is_sorted(addresses.begin(), addresses.end(), std::greater<>{})) {
    return "descending";
  }
  return "mixed";
}

Json card_json(const CardDescription& card) {
  Json json;
  json["schema_version"] = 1;
  json["card"] = card.spec.name;
  json["total_bytes"] = card.spec.total.count();
  json["total_source"] = "measured: cudaGetDeviceProperties, CUDA " + card.driver;
  json["granularity_bytes"] = card.spec.granularity.count();
  json["shared_page_limit_bytes"] = card.shared_page_limit.count();
  json["unusable_bytes"] = card.unusable.count();
  json["compute_major"] = card.spec.compute_major;
  json["compute_minor"] = card.spec.compute_minor;
  json["multiprocessors"] = card.multiprocessors;
  json["threads_per_multiprocessor"] = card.threads_per_multiprocessor;
  json["l2_cache_bytes"] = known(card.l2_cache.count());
  json["context_bytes"] = card.context.count();
  json["context_source"] =
      card.spec.name + ", CUDA " + card.driver + "; total less free after cudaFree(0)";
  json["rates"] = {
      {"bf16_flops_per_second", rate_or_null(card.bf16_flops_per_second)},
      {"fp16_flops_per_second", rate_or_null(card.fp16_flops_per_second)},
      {"tf32_flops_per_second", rate_or_null(card.tf32_flops_per_second)},
      {"fp32_flops_per_second", rate_or_null(card.fp32_flops_per_second)},
      {"device_bytes_per_second", known(card.device_bytes_per_second)},
      {"host_to_device_bytes_per_second", known(card.host_to_device_bytes_per_second)},
      {"device_to_host_bytes_per_second", known(card.device_to_host_bytes_per_second)}};
  json["driver_costs"] = driver_costs_json(card.driver_costs);
  Json uses = Json::array();
  for (const PageUse& use : card.page_use) {
    Json taken = Json::array();
    for (const Bytes bytes : use.taken_after) {
      taken.push_back(bytes.count());
    }
    uses.push_back({{"request_bytes", use.request.count()},
                    {"taken_after_bytes", taken},
                    {"address_order", address_order(use.addresses)}});
  }
  json["measured"] = {{"by", "peakcast-cuda-check device"},
                      {"driver", card.driver},
                      {"cuda_runtime", card.runtime},
                      {"context_creation_ns", card.context_creation.count()},
                      {"event_record_ns", card.event_record.count()},
                      {"event_query_ns", card.event_query.count()},
                      {"kernel_turnaround_ns", card.kernel_turnaround.count()},
                      {"page_use", std::move(uses)}};
  return json;
}

}  // namespace peakcast
