#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// GPT2LMHeadModel. Source: transformers 5.17, models/gpt2/modeling_gpt2.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_gpt2(const ModelConfig& config,
                                                       Attention attention);

}  // namespace peakcast::models
