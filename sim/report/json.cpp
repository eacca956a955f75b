#include "sim/report/json.hpp"

#include <utility>

#include "sim/core/version.hpp"

namespace peakcast {

Json report_head(std::string_view command, Json inputs) {
  constexpr int kSchemaVersion = 1;
  Json head;
  head["schema_version"] = kSchemaVersion;
  head["tool"] = "peakcast";
  head["version"] = version();
  head["command"] = command;
  head["inputs"] = std::move(inputs);
  return head;
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace peakcast
