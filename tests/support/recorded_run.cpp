#include "tests/support/recorded_run.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

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

/// What transformers 5.17 gives a model whose configuration says nothing, by model_type.
json defaults_of(const std::string& type) {
  const json encoder{{"vocab_size", 30522},       {"hidden_size", 768},
                     {"num_hidden_layers", 12},   {"num_attention_heads", 12},
                     {"intermediate_size", 3072}, {"max_position_embeddings", 512}};
  if (type == "modernbert") {
    return {{"vocab_size", 50368},       {"hidden_size", 768},
            {"num_hidden_layers", 22},   {"num_attention_heads", 12},
            {"intermediate_size", 1152}, {"max_position_embeddings", 8192}};
  }
  if (type == "distilbert") {
    return {{"vocab_size", 30522}, {"dim", 768},         {"n_layers", 6},
            {"n_heads", 12},       {"hidden_dim", 3072}, {"max_position_embeddings", 512}};
  }
  return type == "bert" || type == "roberta" || type == "electra" ? encoder : json::object();
}

/// capture_today.py: a transformers class and fields of its configuration.
void class_of(const json& scenario, RunSpec& spec) {
  const std::string family = scenario.at("family").get<std::string>();
  constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kTypes{{
      {"Bert", "bert"},
      {"DeepseekV3", "deepseek_v3"},
      {"DistilBert", "distilbert"},
      {"Electra", "electra"},
      {"Gemma2", "gemma2"},
      {"Gemma3", "gemma3_text"},
      {"GptOss", "gpt_oss"},
      {"Llama", "llama"},
      {"Mistral", "mistral"},
      {"ModernBert", "modernbert"},
      {"Olmo2", "olmo2"},
      {"Phi3", "phi3"},
      {"Qwen3", "qwen3"},
      {"Qwen3Moe", "qwen3_moe"},
      {"Roberta", "roberta"},
      {"SmolLM3", "smollm3"},
  }};
  const auto row = std::find_if(kTypes.begin(), kTypes.end(),
                                [&](const auto& entry) { return entry.first == family; });
  json config = row == kTypes.end() ? json::object() : defaults_of(std::string{row->second});
  config.update(scenario.at("config"));
  config["model_type"] = row == kTypes.end() ? family : std::string{row->second};
  config["architectures"] = {family + scenario.value("head", "ForCausalLM")};
  if (family == "Gemma3" && scenario.value("head", "") == "ForSequenceClassification") {
    config["architectures"] = {"Gemma3TextForSequenceClassification"};
  }
  spec.model = config.dump();
  const std::string head = scenario.value("head", "");
  spec.token_types = !scenario.value("no_types", false) && head != "ForTokenClassification" &&
                     head != "ForQuestionAnswering";
  if (scenario.contains("lora")) {
    const json& lora = scenario["lora"];
    spec.lora.rank = lora.at("r").get<std::int64_t>();
    spec.lora.targets = lora.at("targets").get<std::vector<std::string>>();
    spec.lora.dropout = lora.value("dropout", 0.0);
  }
  spec.freeze = text(scenario, "freeze");
  if (text(scenario, "quant") == "nf4") {
    spec.quantize = Quantize::nf4;
    spec.double_quant = scenario.value("double_quant", true);
  }
  spec.fused_loss = scenario.value("liger", false) ? FusedLoss::liger : FusedLoss::none;
}

OptimizerKind optimizer_of(const std::string& name) {
  constexpr std::array<std::pair<std::string_view, OptimizerKind>, 9> kNames{{
      {"adamw-fused", OptimizerKind::adamw_fused},
      {"adamw-single", OptimizerKind::adamw_single},
      {"sgd", OptimizerKind::sgd},
      {"adamw8bit", OptimizerKind::adamw8bit},
      {"paged8bit", OptimizerKind::paged_adamw8bit},
      {"lion8bit", OptimizerKind::lion8bit},
      {"sgd-plain", OptimizerKind::sgd_plain},
      {"adafactor", OptimizerKind::adafactor},
      {"rmsprop", OptimizerKind::rmsprop},
  }};
  const auto row = std::find_if(kNames.begin(), kNames.end(),
                                [&](const auto& entry) { return entry.first == name; });
  return row == kNames.end() ? OptimizerKind::adamw : row->second;
}

/// As capture.py wraps the model.
void parallel_of(const json& scenario, RunSpec& spec) {
  const json& sharding = scenario.at("fsdp");
  const json& version = sharding.at("version");
  spec.parallel = version == "ddp" ? Parallel::ddp
                  : version == 1   ? Parallel::fsdp1
                                   : Parallel::fsdp2;
  spec.world = sharding.at("world").get<std::int64_t>();
  if (spec.parallel == Parallel::ddp &&
      scenario.at("name").get<std::string>().find("2gpu") == std::string::npos) {
    spec.world = 1;  // recorded as one NCCL rank; the file's number is only a label
  }
  const bool bf16 = sharding.value("bf16", false);
  spec.shard_precision = bf16 ? ShardPrecision::bf16 : ShardPrecision::same;
  if (bf16 && spec.parallel == Parallel::fsdp2) {
    spec.reduce_precision = ShardPrecision::fp32;
  }
  const std::string strategy = text(sharding, "strategy");
  spec.shard = strategy == "SHARD_GRAD_OP"  ? Shard::grad_op
               : strategy == "NO_SHARD"     ? Shard::none
               : strategy == "HYBRID_SHARD" ? Shard::hybrid
                                            : Shard::full;
  spec.limit_all_gathers = sharding.value("limit_all_gathers", true);
  spec.reshard_after_forward = sharding.value("reshard", true);
  spec.bucket_view = sharding.value("bucket_view", false);
  spec.bucket_mb = sharding.value("bucket_mb", std::int64_t{25});
  if (const auto prefetch = sharding.find("prefetch"); prefetch != sharding.end()) {
    spec.backward_prefetch = !prefetch->is_string()         ? Prefetch::none
                             : *prefetch == "BACKWARD_POST" ? Prefetch::post
                                                            : Prefetch::pre;
  }
}

/// deepspeed.initialize with defaults.
void zero_of(const json& scenario, RunSpec& spec) {
  const json& zero = scenario.at("zero");
  constexpr std::array<Parallel, 3> kStages{Parallel::zero1, Parallel::zero2, Parallel::zero3};
  spec.parallel = kStages.at(zero.at("stage").get<std::size_t>() - 1);
  spec.world = zero.at("world").get<std::int64_t>();
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
  if (scenario.contains("family")) {
    class_of(scenario, spec);
  } else {
    model_of(scenario, spec);
  }
  const std::string amp = text(scenario, "amp");
  const std::string type = text(scenario, "param_dtype");
  spec.precision = amp == "bfloat16"    ? Precision::bf16_amp
                   : amp == "float16"   ? Precision::fp16_amp
                   : type == "bfloat16" ? Precision::bf16
                   : type == "float16"  ? Precision::fp16
                                        : Precision::fp32;
  spec.attention = text(scenario, "attn") == "eager" ? Attention::eager : Attention::sdpa;
  const std::string today = text(scenario, "opt_today");
  spec.optimizer = optimizer_of(today.empty() ? text(scenario, "opt") : today);
  spec.zero_grad = scenario.value("zero_first", true) ? ZeroGrad::before : ZeroGrad::after;
  spec.accumulate = scenario.value("accum", 1);
  spec.clip_grad = scenario.value("clip", false);
  spec.dispatch_mode = scenario.value("oplog", false);
  if (scenario.value("ckpt", false)) {
    spec.checkpoint =
        scenario.value("reentrant", false) ? Checkpoint::full_reentrant : Checkpoint::full;
  }
  spec.iterations = scenario.value("iters", 3);
  if (scenario.contains("fsdp")) {
    parallel_of(scenario, spec);
  }
  if (scenario.contains("zero")) {
    zero_of(scenario, spec);
    spec.rank = all.value("rank", std::int64_t{0});
  }
  for (const json& iteration : all.at("per_iter")) {
    spec.shapes.push_back(
        {iteration.at("batch").get<std::int64_t>(), iteration.at("seq").get<std::int64_t>()});
  }
  if (spec.shapes.empty()) {
    spec.shapes.push_back(
        {scenario.value("batch", std::int64_t{1}), scenario.value("seq", std::int64_t{1})});
  }
  for (BatchShape& shape : spec.shapes) {
    shape.seq = std::max<std::int64_t>(shape.seq, 1);  // image models are recorded with none
  }
  return spec;
}

}  // namespace peakcast::testing
