#include "allocators/peakcast/tuning.hpp"

#include <array>
#include <string_view>

#include "sim/core/nearest.hpp"

namespace peakcast::near_floor {

Expected<Tuning> read_tuning(const PolicyOptions& options) {
  if (!options.version.empty()) {
    return invalid_input("the policy 'peakcast' has no versions");
  }
  if (options.alloc_conf.empty() || options.alloc_conf == "tight") {
    return kTight;
  }
  if (options.alloc_conf == "fast") {
    return kFast;
  }
  static constexpr std::array<std::string_view, 2> kWords{"fast", "tight"};
  return invalid_input("peakcast's alloc-conf: " +
                       unknown_word("setting", options.alloc_conf, kWords));
}

}  // namespace peakcast::near_floor
