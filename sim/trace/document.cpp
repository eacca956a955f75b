#include "sim/trace/document.hpp"

namespace peakcast {

const DataValue* Document::find(const DataValue& value, std::string_view key) const {
  if (value.kind != DataValue::Kind::dict) {
    return nullptr;
  }
  const std::vector<Pair>& pairs = dicts[value.index];
  for (std::size_t i = pairs.size(); i-- > 0;) {
    if (pairs[i].first.kind == DataValue::Kind::text && texts[pairs[i].first.index] == key) {
      return &pairs[i].second;
    }
  }
  return nullptr;
}

}  // namespace peakcast
