#include "sim/app/repeats.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace peakcast::app {

std::int64_t device_calls(const DeviceCounts& counts) {
  return counts.acquire + counts.release + counts.reserve + counts.unreserve + counts.create +
         counts.destroy + counts.map + counts.unmap + counts.pool_allocate + counts.pool_free;
}

SimDuration allocator_time(SimDuration device_time, std::int64_t program_ops) {
  return device_time + TimedReplay{}.allocator_call * program_ops;
}

std::vector<RepeatCost> repeat_costs(const ReplayReport& report, std::int64_t repeats) {
  std::vector<RepeatCost> costs;
  const std::vector<IterationReport>& iterations = report.iterations;
  const auto first = std::max<std::ptrdiff_t>(std::ssize(iterations) - repeats, 1);
  for (auto i = static_cast<std::size_t>(first); i < iterations.size(); ++i) {
    const IterationReport& before = iterations[i - 1];
    const IterationReport& now = iterations[i];
    const SimDuration in_driver = now.device_time - before.device_time;
    costs.push_back({device_calls(now.device_calls) - device_calls(before.device_calls), in_driver,
                     allocator_time(in_driver, now.program_ops - before.program_ops)});
  }
  return costs;
}

Json repeats_json(const std::vector<RepeatCost>& costs) {
  Json json = Json::array();
  for (const RepeatCost& cost : costs) {
    json.push_back({{"device_calls", cost.device_calls},
                    {"device_time_ns", cost.device_time.count()},
                    {"allocator_time_ns", cost.allocator_time.count()}});
  }
  return json;
}

std::string repeats_text(const std::vector<RepeatCost>& costs) {
  constexpr std::size_t kShown = 6;
  std::string text;
  SimDuration in_all{};
  for (std::size_t i = 0; i < costs.size(); ++i) {
    in_all += costs[i].device_time;
    if (i < kShown) {
      text += fmt::format("{}{}", i == 0 ? "" : ", ", costs[i].device_calls);
    }
  }
  if (costs.size() > kShown) {
    text += fmt::format(", ..., {}", costs.back().device_calls);
  }
  return text + fmt::format("; {:.1f} ms", static_cast<double>(in_all.count()) / 1e6);
}

}  // namespace peakcast::app
