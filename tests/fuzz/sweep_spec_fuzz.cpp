#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/app/command.hpp"
#include "sim/app/sweep_grid.hpp"

/// Bytes as a sweep's file, and its last point as words.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast::app;
  try {
    const SweepGrid grid =
        SweepGrid::from_text({reinterpret_cast<const char*>(data), size}, "fuzz");
    static_cast<void>(grid.names_plugin());
    static_cast<void>(grid.words_at(grid.size() - 1));
  } catch (const Fault&) {  // NOLINT(bugprone-empty-catch): what it refuses, it says so
  }
  return 0;
}
