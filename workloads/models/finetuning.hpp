#pragma once

#include "sim/core/error.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast::models {

/// What a fine-tuning script does to a model between making it and moving it to the card: 4-bit
/// weights (bitsandbytes 0.50.2, Linear4bit, compute in bfloat16), LoRA (peft 0.21.2, adapters in
/// fp32 whatever the base is), frozen parameters, Liger's fused loss. An error names the flag: a
/// pattern that is none, targets that no layer has.
[[nodiscard]] Expected<Ok> prepare_finetuning(LanguageModel& model, const RunSpec& spec);

/// Those that train, in order.
[[nodiscard]] torch::TensorList trainable(const torch::TensorList& parameters);

}  // namespace peakcast::models
