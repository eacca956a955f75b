#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// LlamaForCausalLM and its kin (Mistral, Qwen2), by the config's family.
/// Source: transformers 5.17, models/llama/modeling_llama.py (and mistral, qwen2).
[[nodiscard]] std::unique_ptr<LanguageModel> make_llama(const ModelConfig& config,
                                                        Attention attention);

}  // namespace peakcast::models
