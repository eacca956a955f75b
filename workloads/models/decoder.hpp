#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// A decoder-only language model as its family's row (DecoderTraits) and its config say.
/// Source: transformers 5.17, models/{llama,mistral,mixtral,qwen2}/modeling_*.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_decoder(const ModelConfig& config,
                                                          Attention attention);

}  // namespace peakcast::models
