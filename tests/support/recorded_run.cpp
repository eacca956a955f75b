#include "tests/support/recorded_run.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

namespace peakcast::testing {
namespace {

using nlohmann::json;

std::string text(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

void model_of(const json& scenario, RunSpec& spec) {
  spec.model = scenario.at("model").get<std::string>();
  for (const auto& [suffix, task] : {std::pair{"-mlm", "mlm"}, {"-cls", "classification"}}) {
    const std::string end{suffix};
    if (spec.model.size() > end.size() &&
        spec.model.compare(spec.model.size() - end.size(), end.size(), end) == 0) {
      spec.model.resize(spec.model.size() - end.size());
      spec.task = task;
    }
  }
  if (scenario.contains("overrides")) {
    for (const auto& [key, value] : scenario["overrides"].items()) {
      spec.overrides.emplace_back(key, value.dump());
    }
  }
}

}  // namespace

Expected<RunSpec> recorded_run(const std::string& json_path) {
  std::ifstream file{json_path};
  const json all = json::parse(file, nullptr, false);
  if (all.is_discarded()) {
    return invalid_input("no JSON in " + json_path);
  }
  const json& scenario = all.at("scenario");
  RunSpec spec;
  model_of(scenario, spec);
  const std::string amp = text(scenario, "amp");
  const std::string type = text(scenario, "param_dtype");
  spec.precision = amp == "bfloat16"    ? Precision::bf16_amp
                   : amp == "float16"   ? Precision::fp16_amp
                   : type == "bfloat16" ? Precision::bf16
                   : type == "float16"  ? Precision::fp16
                                        : Precision::fp32;
  spec.attention = text(scenario, "attn") == "eager" ? Attention::eager : Attention::sdpa;
  const std::string optimizer = text(scenario, "opt");
  spec.optimizer = optimizer == "adamw-fused"    ? OptimizerKind::adamw_fused
                   : optimizer == "adamw-single" ? OptimizerKind::adamw_single
                   : optimizer == "sgd"          ? OptimizerKind::sgd
                                                 : OptimizerKind::adamw;
  spec.zero_grad = scenario.value("zero_first", true) ? ZeroGrad::before : ZeroGrad::after;
  spec.accumulate = scenario.value("accum", 1);
  spec.clip_grad = scenario.value("clip", false);
  if (scenario.value("ckpt", false)) {
    spec.checkpoint = scenario.value("reentrant", false) ? Checkpoint::full_reentrant : Checkpoint::full;
  }
  spec.iterations = scenario.value("iters", 3);
  for (const json& iteration : all.at("per_iter")) {
    spec.shapes.push_back({iteration.at("batch").get<std::int64_t>(), iteration.at("seq").get<std::int64_t>()});
  }
  if (spec.shapes.empty()) {
    spec.shapes.push_back({scenario.value("batch", std::int64_t{1}), scenario.value("seq", std::int64_t{1})});
  }
  return spec;
}

}  // namespace peakcast::testing
