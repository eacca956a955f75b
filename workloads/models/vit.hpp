#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// ViTForImageClassification. Source: transformers 5.17, models/vit/modeling_vit.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_vit(const ModelConfig& config,
                                                      Attention attention);

}  // namespace peakcast::models
