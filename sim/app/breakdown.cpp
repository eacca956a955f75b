#include "sim/app/breakdown.hpp"

#include <string>

namespace peakcast::app {

Bytes part_of(const ReplayReport& report, Category category) {
  Bytes bytes = report.at_peak[static_cast<std::size_t>(category)];
  if (category == Category::temporary) {
    bytes += report.at_peak[static_cast<std::size_t>(Category::unknown)];
  }
  return bytes;
}

Json breakdown_json(const ReplayReport& report) {
  Json json = Json::object();
  for (const Part& part : kParts) {
    json[std::string{part.name} + "_bytes"] = part_of(report, part.category).count();
  }
  return json;
}

}  // namespace peakcast::app
