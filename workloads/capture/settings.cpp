#include "workloads/capture/settings.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace peakcast::capture {
namespace {

constexpr int kMostCards = 64;

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

[[noreturn]] void refuse(const std::string& why) {
  std::fprintf(stderr, "peakcast capture: %s\n", why.c_str());
  std::_Exit(2);
}

std::optional<std::int64_t> number(const char* name) {
  const std::string text = variable(name);
  if (text.empty()) {
    return std::nullopt;
  }
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (*end != '\0' || value <= 0) {
    refuse(std::string{name} + "=" + text + " is no positive number");
  }
  return value;
}

}  // namespace

Settings settings_from_environment() {
  Settings settings;
  settings.directory = variable(kDirectoryVariable);
  const std::string gpu = variable(kGpuVariable);
  Expected<GpuDescription> description = load_gpu_description(gpu.empty() ? "h100-80g" : gpu);
  if (!description) {
    refuse(to_string(description.error()));
  }
  settings.gpu = std::move(description).value();
  if (const auto capacity = number(kCapacityVariable)) {
    settings.gpu.spec.total = Bytes{*capacity};
  }
  if (const auto limit = number(kLimitVariable)) {
    settings.limit = Bytes{*limit};
  }
  const std::int64_t cards = number(kCardsVariable).value_or(1);
  if (cards > kMostCards) {
    refuse(std::string{kCardsVariable} + " is more than 64");
  }
  settings.cards = static_cast<int>(cards);
  settings.partners_in_name = !variable(kPartnersVariable).empty();
  settings.stacks = !variable(kStacksVariable).empty();
  return settings;
}

}  // namespace peakcast::capture
