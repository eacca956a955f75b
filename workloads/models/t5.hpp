#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// T5ForConditionalGeneration. Source: transformers 5.17, models/t5/modeling_t5.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_t5(const ModelConfig& config,
                                                     Attention attention);

}  // namespace peakcast::models
