#include "workloads/models/families.hpp"

#include <array>

namespace peakcast {

std::span<const Family* const> families() {
  static constexpr std::array<const Family*, 8> kFamilies{
      &models::kBert,    &models::kGpt2,  &models::kLlama, &models::kMistral,
      &models::kMixtral, &models::kQwen2, &models::kT5,    &models::kVit,
  };
  return kFamilies;
}

}  // namespace peakcast
