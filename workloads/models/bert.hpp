#pragma once

#include <memory>

#include "workloads/model_config.hpp"
#include "workloads/models/language_model.hpp"

namespace peakcast::models {

/// BertForMaskedLM, BertForPreTraining or BertForSequenceClassification, by the config's task.
/// Source: transformers 5.17, models/bert/modeling_bert.py.
[[nodiscard]] std::unique_ptr<LanguageModel> make_bert(const ModelConfig& config,
                                                       Attention attention);

}  // namespace peakcast::models
