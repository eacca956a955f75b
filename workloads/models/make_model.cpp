#include "workloads/models/make_model.hpp"

#include <string>

#include "workloads/models/bert.hpp"
#include "workloads/models/t5.hpp"

namespace peakcast::models {

Expected<std::unique_ptr<LanguageModel>> make_model(const ModelConfig& config, Attention attention) {
  switch (config.family) {
    case Family::bert:
      return make_bert(config, attention);
    case Family::t5:
      return make_t5(config, attention);
    default:
      return Error{ErrorCode::unsupported,
                   "no description of models of type '" + std::string{to_string(config.family)} + "'", {}};
  }
}

}  // namespace peakcast::models
