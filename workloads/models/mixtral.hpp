#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// MixtralForCausalLM, with the load-balancing loss where output_router_logits is set: Llama's
/// layers around a mixture of experts, computed by grouped products. Source: transformers 5.17,
/// models/mixtral/modeling_mixtral.py and integrations/moe.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_mixtral(const ModelConfig& config,
                                                          Attention attention);

}  // namespace peakcast::models
