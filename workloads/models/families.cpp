#include "workloads/models/families.hpp"

#include <array>

namespace peakcast {

std::span<const Family* const> families() {
  static constexpr std::array kFamilies{
      &models::kBert,       &models::kDeepseekV3, &models::kDistilBert, &models::kElectra,
      &models::kGemma2,     &models::kGemma3,     &models::kGpt2,       &models::kGptOss,
      &models::kGranite,    &models::kLlama,      &models::kMistral,    &models::kMixtral,
      &models::kModernBert, &models::kOlmo2,      &models::kPhi3,       &models::kQwen2,
      &models::kQwen3,      &models::kQwen3Moe,   &models::kRoberta,    &models::kSmolLm3,
      &models::kT5,         &models::kVit,
  };
  return kFamilies;
}

}  // namespace peakcast
