#include "workloads/models/make_model.hpp"

#include <string>

#include "workloads/models/bert.hpp"
#include "workloads/models/gpt2.hpp"
#include "workloads/models/llama.hpp"
#include "workloads/models/mixtral.hpp"
#include "workloads/models/t5.hpp"
#include "workloads/models/vit.hpp"

namespace peakcast::models {

Expected<std::unique_ptr<LanguageModel>> make_model(const ModelConfig& config,
                                                    Attention attention) {
  switch (config.family) {
    case Family::bert:
      return make_bert(config, attention);
    case Family::t5:
      return make_t5(config, attention);
    case Family::gpt2:
      return make_gpt2(config, attention);
    case Family::llama:
    case Family::mistral:
    case Family::qwen2:
      return make_llama(config, attention);
    case Family::mixtral:
      return make_mixtral(config, attention);
    case Family::vit:
      return make_vit(config, attention);
  }
  return Error{ErrorCode::unsupported, "no description of this model", {}};
}

}  // namespace peakcast::models
