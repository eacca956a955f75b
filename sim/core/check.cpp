#include "sim/core/check.hpp"

#include <cstdio>
#include <cstdlib>

namespace peakcast {

void check_failed(std::string_view what, const char* file, int line) {
  std::fprintf(stderr, "peakcast: bug at %s:%d: %.*s\n", file, line, static_cast<int>(what.size()),
               what.data());
  std::abort();
}

}  // namespace peakcast
