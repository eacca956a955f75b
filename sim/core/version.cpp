#include "sim/core/version.hpp"

namespace peakcast {

std::string_view version() { return PEAKCAST_VERSION; }

}  // namespace peakcast
