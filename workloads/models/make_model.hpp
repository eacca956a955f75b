#pragma once

#include <memory>

#include "sim/core/error.hpp"
#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// The model of a config, on the host. An error when the family is not described.
[[nodiscard]] Expected<std::unique_ptr<LanguageModel>> make_model(const ModelConfig& config,
                                                                  Attention attention);

}  // namespace peakcast::models
