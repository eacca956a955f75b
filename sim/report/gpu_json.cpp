#include "sim/report/gpu_json.hpp"

#include "sim/device/gpu_fields.hpp"

namespace peakcast {
namespace {

Json with_source(Json group, const FigureSource& source) {
  group["measured"] = source.measured;
  group["source"] = source.text;
  return group;
}

}  // namespace

Json rates_json(const GpuRates& rates) {
  Json json = Json::object();
  for (const auto& field : kRateFields) {
    json[field.key] = rates.*field.member;
  }
  for (const auto& field : kRateTimes) {
    json[field.key] = (rates.*field.member).count();
  }
  return json;
}

Json driver_costs_json(const DriverCosts& costs) {
  Json json = Json::object();
  for (const auto& field : kDriverLists) {
    Json points = Json::array();
    for (const CostPoint& point : costs.*field.member) {
      points.push_back({{"size_bytes", point.size.count()}, {"cost_ns", point.cost.count()}});
    }
    json[field.key] = points.empty() ? Json(nullptr) : std::move(points);
  }
  for (const auto& field : kDriverTimes) {
    json[field.key] = (costs.*field.member).count();
  }
  return json;
}

Json gpu_json(const GpuDescription& gpu) {
  Json json;
  json["name"] = gpu.name;
  json["card"] = gpu.spec.name;
  json["total_bytes"] = gpu.spec.total.count();
  json["total_source"] = gpu.total_source;
  json["total_range_bytes"] = {gpu.total_least.count(), gpu.total_most.count()};
  json["granularity_bytes"] = gpu.spec.granularity.count();
  json["shared_page_limit_bytes"] = gpu.shared_page_limit.count();
  json["unusable_bytes"] = gpu.unusable.count();
  json["compute_major"] = gpu.spec.compute_major;
  json["compute_minor"] = gpu.spec.compute_minor;
  json["multiprocessors"] = gpu.multiprocessors;
  json["threads_per_multiprocessor"] = gpu.threads_per_multiprocessor;
  json["l2_cache_bytes"] = gpu.l2_cache.count();
  json["rates"] = with_source(rates_json(gpu.rates), gpu.rates_source);
  json["driver_costs"] = with_source(driver_costs_json(gpu.driver_costs), gpu.driver_source);
  Json outside = Json::array();
  for (const OutsideItem& item : gpu.outside) {
    outside.push_back({{"item", item.item},
                       {"when", to_string(item.when)},
                       {"bytes", item.size.count()},
                       {"measured", item.measured},
                       {"source", item.source}});
  }
  json["outside"] = std::move(outside);
  return json;
}

}  // namespace peakcast
