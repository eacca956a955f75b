#include "workloads/gpu_traits.hpp"

namespace peakcast {

std::optional<GpuTraits> gpu_traits(std::string_view gpu) {
  struct Row {
    std::string_view prefix;
    GpuTraits traits;
  };
  // By the card's chip: cards of one name differ in memory only.
  static constexpr Row kRows[] = {
      {"h100", {132, 2048, 90}},    {"h200", {132, 2048, 90}},   {"a100", {108, 2048, 80}},
      {"v100", {80, 2048, 70}},     {"l40s", {142, 1536, 89}},   {"l40", {142, 1536, 89}},
      {"l4", {58, 1536, 89}},       {"a10", {72, 1536, 86}},     {"a6000", {84, 1536, 86}},
      {"rtx4090", {128, 1536, 89}}, {"rtx3090", {82, 1536, 86}}, {"t4", {40, 1024, 75}},
      {"b200", {148, 2048, 100}},
  };
  for (const Row& row : kRows) {
    if (gpu.substr(0, row.prefix.size()) == row.prefix) {
      return row.traits;
    }
  }
  return std::nullopt;
}

}  // namespace peakcast
