#include "workloads/models/llama.hpp"

#include <utility>

#include "workloads/models/causal.hpp"
#include "workloads/models/decoder.hpp"
#include "workloads/models/llama_layers.hpp"

namespace peakcast::models {

std::unique_ptr<LanguageModel> make_llama(const ModelConfig& config, Attention attention) {
  return std::make_unique<DecoderLM<LlamaMLP>>(config, attention);
}

}  // namespace peakcast::models
