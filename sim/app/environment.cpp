#include "sim/app/environment.hpp"

#include <array>
#include <cstdlib>

namespace peakcast::app {
namespace {

constexpr std::array<const char*, 2> kVariables{"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"};

/// The one that PyTorch would go by; null when none is set.
const char* set_variable() {
  for (const char* const name : kVariables) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets variables
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != '\0') {
      return name;
    }
  }
  return nullptr;
}

}  // namespace

std::string settings_of_environment() {
  const char* const name = set_variable();
  return name != nullptr ? std::getenv(name) : "";  // NOLINT(concurrency-mt-unsafe): as above
}

void note_unread_settings(const CommandLine& line) {
  const char* const name = set_variable();
  if (name != nullptr && !line.given("alloc-conf")) {
    line.console().note(std::string{name} + " is set and not read: --alloc-conf \"$" + name +
                        "\" takes its settings");
  }
}

}  // namespace peakcast::app
