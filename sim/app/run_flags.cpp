#include "sim/app/run_flags.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <limits>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "allocators/policy_list.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/app/backend.hpp"
#include "sim/app/cards.hpp"
#include "sim/app/command.hpp"
#include "sim/app/glossary.hpp"
#include "sim/core/nearest.hpp"
#include "workloads/family.hpp"
#include "workloads/model_names.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

/// "pytorch-2.11" and so on: every release whose allocator is known, oldest first.
std::vector<std::string> frameworks() {
  std::vector<std::string> names;
  for (const pytorch::Version& version : pytorch::versions()) {
    names.push_back(fmt::format("pytorch-{}", version.name));
  }
  return names;
}

constexpr std::int64_t kMaxBatch = std::int64_t{1} << 24;
constexpr std::int64_t kMaxSeq = std::int64_t{1} << 30;
constexpr std::int64_t kMaxWorld = std::int64_t{1} << 20;
constexpr std::int64_t kMaxIterations = 100000;

/// "16x512,64x128".
Expected<std::vector<BatchShape>> parse_shapes(std::string_view text) {
  std::vector<BatchShape> shapes;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const std::size_t cross = item.find('x');
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    const auto part = [&](std::size_t from, std::size_t count) {
      return parse_length(std::string{item.substr(from, count)}, 0, kMost);
    };
    if (cross == std::string_view::npos || !part(0, cross) ||
        !part(cross + 1, std::string_view::npos)) {
      return invalid_input(fmt::format("'{}' is not BATCHxSEQ, as in 16x512", item));
    }
    const BatchShape shape{*part(0, cross), *part(cross + 1, std::string_view::npos)};
    if (shape.batch < 1 || shape.batch > kMaxBatch || shape.seq < 1 || shape.seq > kMaxSeq) {
      return invalid_input(fmt::format("'{}': the batch must be in 1..{}, the sequence in 1..{}",
                                       item, kMaxBatch, kMaxSeq));
    }
    shapes.push_back(shape);
    if (comma == std::string_view::npos) {
      return shapes;
    }
    text.remove_prefix(comma + 1);
  }
}

/// PyTorch's own names of types, which people write too.
std::string word_meant(const std::string& given) {
  const std::string word = plain_word(given);
  return word == "float32"    ? "fp32"
         : word == "bfloat16" ? "bf16"
         : word == "float16"  ? "fp16"
                              : word;
}

/// A choice that the model may decide: the echo is what it was at last.
template <class T>
void declare_word(CommandLine& line, const char* name, T& place, const char* default_text,
                  const char* help) {
  std::string words;
  for (const auto& [word, value] : words_of(T{})) {
    words += (words.empty() ? "" : "|") + std::string{word};
  }
  line.value(
      name, words, default_text,
      [&place](const std::string& given) -> Expected<Ok> {
        std::vector<std::string_view> known;
        for (const auto& [word, value] : words_of(T{})) {
          if (word == word_meant(given)) {
            place = value;
            return Ok{};
          }
          known.push_back(word);
        }
        return invalid_input(unknown_word("value", given, known));
      },
      [&place] { return Json(word_of(place)); }, help);
}

Expected<Ok> parse_checkpoint(const std::string& word, RunSpec& spec) {
  constexpr std::string_view kEvery = "every-";
  if (word.starts_with(kEvery)) {
    const char* const end = word.data() + word.size();
    std::int64_t every{};
    const auto read = std::from_chars(word.data() + kEvery.size(), end, every);
    if (read.ec != std::errc{} || read.ptr != end || every < 1) {
      return invalid_input(fmt::format("'{}' is not every-N, as in every-2", word));
    }
    spec.checkpoint = every == 1 ? Checkpoint::full : Checkpoint::every;
    spec.checkpoint_every = every;
    return Ok{};
  }
  std::vector<std::string_view> known{"every-N"};
  for (const auto& [name, kind] : words_of(Checkpoint{})) {
    if (name == word) {
      spec.checkpoint = kind;
      return Ok{};
    }
    known.push_back(name);
  }
  return invalid_input(unknown_word("value", word, known));
}

using Words = std::vector<std::string_view>;

/// What only transformers itself makes, and what only PyTorch itself works out: the native engine
/// knows no value for these words, so the echo is all there is of them.
const Words& captured_tasks() {
  static const Words kWords{"speech", "ctc", "audio-classification", "contrastive",
                            "vision-language"};
  return kWords;
}
const Words& captured_sharing() {
  static const Words kWords{"tp", "fsdp2+tp", "pp", "megatron"};
  return kWords;
}

bool is_among(const Words& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string echoed(const CommandLine& line, const char* flag) {
  const Json echo = line.echo();
  return echo.at(flag).is_string() ? echo.at(flag).get<std::string>() : "";
}

/// Throws Fault for what ends in a capture.
void check_modelled(const CommandLine& line) {
  const auto refuse = [](const std::string& what) {
    throw Fault{Error{.code = ErrorCode::unsupported,
                      .message = fmt::format("{} is not modelled natively", what)}};
  };
  if (const std::string task = echoed(line, "task"); is_among(captured_tasks(), task)) {
    refuse("task " + task);
  }
  if (const std::string kind = echoed(line, "parallel"); is_among(captured_sharing(), kind)) {
    refuse("parallel " + kind);
  }
  if (echoed(line, "rank") == "all") {
    refuse("rank all");
  }
}

std::string checkpoint_text(const RunSpec& spec) {
  return spec.checkpoint == Checkpoint::every ? fmt::format("every-{}", spec.checkpoint_every)
                                              : std::string{word_of(spec.checkpoint)};
}

std::int64_t longest_sequence(const ModelConfig& model) {
  return model.max_sequence > 0 ? model.max_sequence : model.max_positions;
}

}  // namespace

RunFlags::RunFlags(CommandLine& line) : line_{line} {
  line.topic("model and batches");
  declare_model(line);
  line.topic("training");
  declare_training(line);
  line.topic("fine-tuning");
  declare_finetuning(line);
  line.topic("ranks");
  declare_parallel(line);
  line.topic("card and allocator");
  declare_machine(line);
  line.topic("");
  line.notes(kGlossary);
}

void RunFlags::declare_model(CommandLine& line) {
  line.text("model", "NAME|FILE", spec_.model,
            "a built-in model ('peakcast models') or a Hugging Face config.json");
  line.value(
      "task", "TASK", "from the config",
      [this](const std::string& word) -> Expected<Ok> {
        if (word == "auto") {
          spec_.task.clear();
          return Ok{};
        }
        if (const auto task = task_from(word); !task && !is_among(captured_tasks(), word)) {
          return task.error();
        }
        spec_.task = word;
        return Ok{};
      },
      [this] { return spec_.task.empty() ? Json(nullptr) : Json(spec_.task); },
      "mlm, pretraining, classification, causal-lm, image-classification, seq2seq, "
      "token-classification or question-answering; speech, ctc, audio-classification, "
      "contrastive and vision-language are captured");
  line.value(
      "set", "KEY=VALUE", "",
      [this](const std::string& word) -> Expected<Ok> {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == word.size()) {
          return invalid_input(fmt::format("'{}' is not KEY=VALUE", word));
        }
        spec_.overrides.emplace_back(word.substr(0, equals), word.substr(equals + 1));
        overrides_.push_back(word);
        return Ok{};
      },
      [this] { return Json(overrides_); }, "overrides one field of the config");
  line.make_repeatable("set");
  line.length("batch", batch_, "micro-batch", 1, kMaxBatch);
  line.length("seq", seq_,
              "sequence length, as in 4096 or 4k (images: their patches, whatever is given)", 0,
              kMaxSeq);
  line.value(
      "batches", "BxS,...", "",
      [this](const std::string& word) -> Expected<Ok> {
        auto shapes = parse_shapes(word);
        if (!shapes) {
          return shapes.error();
        }
        spec_.shapes = *std::move(shapes);
        batches_ = word;
        return Ok{};
      },
      [this] { return batches_.empty() ? Json(nullptr) : Json(batches_); },
      "batch and sequence per iteration, cycled, as in 16x512,64x128");
  line.length("target-seq", spec_.target_seq, "the decoder's sequence length (seq2seq; as --seq)",
              1, kMaxSeq);
}

void RunFlags::declare_training(CommandLine& line) {
  line.number("iterations", spec_.iterations, "training steps", 1, kMaxIterations);
  declare_word(line, "precision", spec_.precision, "fp32, or the config's type",
               "type of the parameters, or autocast (-amp) over fp32 parameters; unless given, the "
               "type that the config names");
  declare_word(line, "attention", spec_.attention, "sdpa, or what the model has",
               "how attention is computed");
  line.choice<OptimizerKind>(
      "optimizer", words_of(OptimizerKind{}), spec_.optimizer,
      "adamw is the foreach one; sgd has momentum 0.9, sgd-plain none; 8-bit ones "
      "are bitsandbytes'");
  line.choice<ZeroGrad>("zero-grad", words_of(ZeroGrad{}), spec_.zero_grad,
                        "before the forward pass or after the step");
  line.number("accumulate", spec_.accumulate, "micro-batches per step", 1, kMaxIterations);
  line.flag("clip-grad", spec_.clip_grad, "clip_grad_norm_ before the step");
  line.flag("dispatch-mode", spec_.dispatch_mode,
            "under a TorchDispatchMode, as FLOP counters and operator logs are");
  line.value(
      "checkpoint", "KIND", "none",
      [this](const std::string& word) { return parse_checkpoint(word, spec_); },
      [this] { return Json(checkpoint_text(spec_)); },
      "activation checkpointing: full or full-reentrant of every layer, every-N of every N-th, "
      "selective of all but products and attention; or none");
}

void RunFlags::declare_finetuning(CommandLine& line) {
  line.number("lora", spec_.lora.rank, "rank of LoRA adapters (peft's, in fp32); 0: none", 0,
              1 << 16);
  line.value(
      "lora-targets", "NAME,...", "all-linear",
      [this](const std::string& word) -> Expected<Ok> {
        spec_.lora.targets.clear();
        lora_targets_ = word;
        std::string_view rest = word == "all-linear" ? std::string_view{} : word;
        while (!rest.empty()) {
          const std::size_t comma = rest.find(',');
          spec_.lora.targets.emplace_back(rest.substr(0, comma));
          if (spec_.lora.targets.back().empty()) {
            return invalid_input(fmt::format("'{}' has an empty name", word));
          }
          rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
        }
        return Ok{};
      },
      [this] { return Json(lora_targets_); },
      "layers that get adapters, by name (q_proj,v_proj), or all-linear: all but the head");
  line.value(
      "lora-dropout", "P", "0",
      [this](const std::string& word) -> Expected<Ok> {
        const char* const end = word.data() + word.size();
        double value{};
        const auto read = std::from_chars(word.data(), end, value);
        if (read.ec != std::errc{} || read.ptr != end || !(value >= 0.0 && value < 1.0)) {
          return invalid_input(fmt::format("'{}' is no probability in [0, 1)", word));
        }
        spec_.lora.dropout = value;
        return Ok{};
      },
      [this] { return Json(spec_.lora.dropout); }, "dropout before the adapters");
  line.choice<Quantize>("quantize", words_of(Quantize{}), spec_.quantize,
                        "4-bit weights of all linear layers but the head (bitsandbytes')");
  line.on_off("double-quant", spec_.double_quant, "4-bit weights: their scales in 8 bits");
  line.text("freeze", "REGEX", spec_.freeze, "parameters whose names it finds do not train");
  line.choice<FusedLoss>("fused-loss", words_of(FusedLoss{}), spec_.fused_loss,
                         "Liger's fused linear cross entropy");
}

void RunFlags::declare_parallel(CommandLine& line) {
  const auto sharing = std::make_shared<std::string>(word_of(spec_.parallel));
  line.value(
      "parallel", "KIND", "none",
      [this, sharing](const std::string& word) -> Expected<Ok> {
        Words known;
        bool native = false;
        for (const auto& [name, kind] : words_of(Parallel{})) {
          known.push_back(name);
          if (name == word) {
            spec_.parallel = kind;
            native = true;
          }
        }
        if (!native && !is_among(captured_sharing(), word)) {
          known.insert(known.end(), captured_sharing().begin(), captured_sharing().end());
          return invalid_input(unknown_word("value", word, known));
        }
        *sharing = word;
        return Ok{};
      },
      [sharing] { return Json(*sharing); },
      "how ranks share the work: none, ddp, fsdp1, fsdp2, zero1, zero2, zero3; tp, fsdp2+tp, pp "
      "and "
      "megatron are captured");
  line.number("world", spec_.world, "ranks", 1, kMaxWorld);
  const auto all = std::make_shared<bool>(false);
  line.value(
      "rank", "N|all", "0",
      [this, all](const std::string& word) -> Expected<Ok> {
        *all = word == "all";
        const char* const end = word.data() + word.size();
        const auto read = std::from_chars(word.data(), end, spec_.rank);
        const bool number = read.ec == std::errc{} && read.ptr == end;
        if (!*all && (!number || spec_.rank < 0 || spec_.rank > kMaxWorld)) {
          return invalid_input(fmt::format("'{}' is neither a rank, from 0 on, nor all", word));
        }
        return Ok{};
      },
      [this, all] { return *all ? Json("all") : Json(spec_.rank); },
      "the rank that is simulated; all: one of each pipeline stage, or the first and the last "
      "(captured)");
  line.choice<Shard>("shard", words_of(Shard{}), spec_.shard, "FSDP1's sharding strategy");
  line.on_off("reshard-after-forward", spec_.reshard_after_forward, "FSDP2: free after forward");
  line.choice<ShardPrecision>("shard-precision", words_of(ShardPrecision{}), spec_.shard_precision,
                              "FSDP's type of gathered parameters and buffers");
  line.choice<ShardPrecision>("reduce-precision", words_of(ShardPrecision{}),
                              spec_.reduce_precision, "type of gradients in flight");
  line.choice<Prefetch>("backward-prefetch", words_of(Prefetch{}), spec_.backward_prefetch,
                        "FSDP1");
  line.on_off("forward-prefetch", spec_.forward_prefetch, "FSDP1");
  line.on_off("limit-all-gathers", spec_.limit_all_gathers, "FSDP1");
  line.on_off("bucket-view", spec_.bucket_view, "DDP: gradients are views of the buckets");
  line.number("bucket-mb", spec_.bucket_mb, "DDP's bucket size in MiB", 1, 1 << 20);
}

void RunFlags::declare_machine(CommandLine& line) {
  line.value(
      "framework", "NAME", spec_.framework,
      [this](const std::string& word) -> Expected<Ok> {
        const std::vector<std::string> known = frameworks();
        if (std::find(known.begin(), known.end(), word) == known.end()) {
          const std::vector<std::string_view> words(known.begin(), known.end());
          return invalid_input(unknown_word("value", word, words));
        }
        spec_.framework = word;
        return Ok{};
      },
      [this] { return Json(spec_.framework); },
      "whose allocator runs (the operators are those of pytorch-2.11)");
  line.text("gpu", "NAME|FILE", spec_.gpu,
            "the card ('peakcast gpus') or a JSON file; predict, fit: all, or a list with commas, "
            "for one table");
  line.size("capacity", spec_.capacity, "overrides the card's memory");
  line.limit("limit", limit_,
             "the allocator's own limit, as set_per_process_memory_fraction sets it: a size, or "
             "the part of the card (0.5, 50%)");
  line.number("host-speed", host_speed_,
              "of the host that issues the work, in percent of the recordings' one: it decides how "
              "far ahead of the card it runs",
              10, 1000);
  line.value(
      "policy", "NAME,...", "pytorch",
      [this](const std::string& word) -> Expected<Ok> {
        for (const PolicyName& name : policy_list(word)) {
          if (name.text().empty()) {
            return invalid_input(fmt::format("'{}' has an empty name", word));
          }
        }
        policies_.push_back(word);
        return Ok{};
      },
      [this] {
        return policies_.empty()       ? Json("pytorch")
               : policies_.size() == 1 ? Json(policies_.front())
                                       : Json(policies_);
      },
      "the allocator ('peakcast policies'): name, name@release, or name+KEY:VALUE[+KEY:VALUE...] "
      "with settings of its own, as in pytorch+max_split_size_mb:200");
  line.make_repeatable("policy");
  line.text("alloc-conf", "STRING", alloc_conf_,
            "PyTorch's allocator settings, verbatim; where --policy does not say, "
            "backend:cudaMallocAsync takes cuda-malloc-async");
}

std::vector<PolicyName> RunFlags::policies() const {
  if (policies_.empty()) {
    return {{.base = "pytorch"}};
  }
  std::vector<PolicyName> names;
  for (const std::string& word : policies_) {
    for (PolicyName& name : policy_list(word)) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

PolicyName RunFlags::one_policy(std::string_view command) const {
  std::vector<PolicyName> names = policies();
  if (names.size() != 1) {
    throw Fault{
        fmt::format("--policy: {} takes one policy ('peakcast compare' takes several)", command)};
  }
  return std::move(names.front());
}

std::optional<std::string> RunFlags::gpu() const {
  return line_.given("gpu") ? std::optional{spec_.gpu} : std::nullopt;
}

void refuse_run(CommandLine& line, std::initializer_list<std::string_view> own) {
  constexpr std::array<std::string_view, 8> kOfATrace{"gpu",        "capacity", "limit", "policy",
                                                      "alloc-conf", "format",   "quiet", "verbose"};
  std::vector<std::string> others;
  for (const std::string& name : line.names()) {
    if (std::find(kOfATrace.begin(), kOfATrace.end(), name) != kOfATrace.end() ||
        std::find(own.begin(), own.end(), name) != own.end()) {
      continue;
    }
    if (line.given(name)) {
      throw Fault{
          fmt::format("--{} describes a run, and there is a trace: it says what was run", name)};
    }
    others.push_back(name);
  }
  line.leave_out(others);
}

std::optional<std::string> RunFlags::alloc_conf() const {
  return line_.given("alloc-conf") ? std::optional{alloc_conf_} : std::nullopt;
}

void RunFlags::check_finetuning() const {
  for (const std::string_view flag : {"lora-targets", "lora-dropout"}) {
    if (line_.given(flag) && spec_.lora.rank == 0) {
      throw Fault{fmt::format("--{} needs --lora", flag)};
    }
  }
  if (line_.given("double-quant") && spec_.quantize == Quantize::none) {
    throw Fault{"--double-quant needs --quantize nf4"};
  }
  if (spec_.quantize != Quantize::none && spec_.lora.rank == 0) {
    throw Fault{"--quantize needs --lora: 4-bit weights do not train"};
  }
}

void RunFlags::check_parallel() const {
  struct Only {
    std::string_view flag;
    std::vector<Parallel> kinds;
    std::string_view who;
  };
  const std::array<Only, 10> only{{
      {"shard", {Parallel::fsdp1}, "fsdp1"},
      {"reshard-after-forward", {Parallel::fsdp2}, "fsdp2"},
      {"shard-precision", {Parallel::fsdp1, Parallel::fsdp2}, "fsdp1 or fsdp2"},
      {"reduce-precision", {Parallel::fsdp1, Parallel::fsdp2}, "fsdp1 or fsdp2"},
      {"backward-prefetch", {Parallel::fsdp1}, "fsdp1"},
      {"forward-prefetch", {Parallel::fsdp1}, "fsdp1"},
      {"limit-all-gathers", {Parallel::fsdp1}, "fsdp1"},
      {"bucket-view", {Parallel::ddp}, "ddp"},
      {"bucket-mb", {Parallel::ddp}, "ddp"},
      {"world",
       {Parallel::ddp, Parallel::fsdp1, Parallel::fsdp2, Parallel::zero1, Parallel::zero2,
        Parallel::zero3},
       "ddp, fsdp1, fsdp2 or zero1 to zero3"},
  }};
  for (const Only& rule : only) {
    const bool fits =
        std::find(rule.kinds.begin(), rule.kinds.end(), spec_.parallel) != rule.kinds.end();
    // One rank is what there is without --parallel: saying so is no contradiction.
    const bool harmless = rule.flag == "world" && spec_.world == 1;
    if (line_.given(rule.flag) && !fits && !harmless) {
      throw Fault{fmt::format("--{} needs --parallel {}", rule.flag, rule.who)};
    }
  }
  if (spec_.rank >= spec_.world) {
    throw Fault{fmt::format("--rank {} is not below --world {}", spec_.rank, spec_.world)};
  }
}

void RunFlags::take_config_precision(Precision precision) {
  if (!line_.given("precision")) {
    spec_.precision = precision;
  }
}

Run RunFlags::run() {
  Run run = run_on(spec_.gpu);
  settle_limit(run.gpu.spec.total);
  return run;
}

bool RunFlags::several_cards() const {
  return spec_.gpu == "all" || card_names(spec_.gpu).size() > 1;
}

std::vector<Run> RunFlags::runs() {
  if (spec_.capacity && several_cards()) {
    throw Fault{"--capacity and several cards: each has its own memory"};
  }
  std::vector<Run> runs;
  for (const std::string& gpu : card_names(spec_.gpu)) {
    runs.push_back(run_on(gpu));
  }
  std::stable_sort(runs.begin(), runs.end(),
                   [](const Run& a, const Run& b) { return a.gpu.spec.total < b.gpu.spec.total; });
  return runs;
}

Run RunFlags::run_on(const std::string& gpu) {
  if (!given()) {
    throw Fault{"--model is missing ('peakcast models' lists the built-in ones)"};
  }
  // In the echo and the header a name stands as 'peakcast models' and 'peakcast gpus' write it.
  std::error_code error;
  if (const std::string_view builtin = builtin_model(spec_.model);
      !builtin.empty() && !std::filesystem::exists(spec_.model, error)) {
    spec_.model = builtin;
  }
  Run run;
  run.gpu = value_or_throw(load_gpu_description(gpu));
  const std::string name = std::filesystem::exists(gpu, error) ? gpu : run.gpu.name;
  if (!several_cards()) {
    spec_.gpu = name;
  }
  run.spec = spec_;
  run.spec.gpu = name;
  if (!batches_.empty() && (line_.given("batch") || line_.given("seq"))) {
    throw Fault{"--batches and --batch or --seq: give one of them"};
  }
  if (batches_.empty()) {
    run.spec.shapes = {BatchShape{batch_, seq_}};
  }
  check_modelled(line_);
  check_parallel();
  run.model = value_or_throw(load_model_config(spec_.model, spec_.overrides, spec_.task));
  if (!line_.given("precision") && run.model.precision) {
    run.spec.precision = spec_.precision = *run.model.precision;
    run.config_precision = true;
  }
  if (run.model.family->eager_only) {
    if (line_.given("attention") && spec_.attention == Attention::sdpa) {
      throw Fault{
          fmt::format("--attention sdpa: {} has eager attention only", run.model.family->name)};
    }
    run.spec.attention = spec_.attention = Attention::eager;
  }
  check_finetuning();
  if (run.model.use_cache && spec_.checkpoint != Checkpoint::none) {
    line_.console().note(
        "use_cache has no effect under --checkpoint: transformers sets it off there, too");
  }
  if (spec_.target_seq && run.model.task != Task::seq2seq) {
    throw Fault{fmt::format("--target-seq is for seq2seq models; {} is a {} model", spec_.model,
                            to_string(run.model.task))};
  }
  if (run.model.family->positions == Positions::image) {
    for (BatchShape& shape : run.spec.shapes) {
      shape.seq = run.model.max_positions;
    }
  } else if (batches_.empty() && !line_.given("seq")) {  // the default must suit any model
    run.spec.shapes.front().seq = std::min(seq_, longest_sequence(run.model));
  }
  if (spec_.capacity) {
    constexpr Bytes kMaxCapacity{std::int64_t{1} << 46};
    if (*spec_.capacity < Bytes{1} || *spec_.capacity > kMaxCapacity) {
      throw Fault{"--capacity must be in 1 B..64 TiB"};
    }
    run.gpu.spec.total = *spec_.capacity;
    run.gpu.total_least = *spec_.capacity;
    run.gpu.total_most = *spec_.capacity;
  }
  run.policy = policies().front();
  run.alloc_conf = alloc_conf_;
  const std::size_t release = spec_.framework.find('-') + 1;
  if ((!line_.given("policy") || run.policy.text() == kDriverPool) &&
      asks_for_driver_pool(alloc_conf_, spec_.framework.substr(release))) {
    run.policy = PolicyName{.base = std::string{kDriverPool}};
    run.alloc_conf.clear();
  }
  run.limit = limit_ ? std::optional{limit_->of(run.gpu.spec.total)} : std::nullopt;
  run.host_speed = host_speed_;
  check_shapes(run);
  return run;
}

void check_shapes(const Run& run) {
  const ModelConfig& model = run.model;
  const Family& family = *model.family;
  const bool learned = family.positions == Positions::table;
  __extension__ using Wide = __int128;
  for (const BatchShape& shape : run.spec.shapes) {
    if (shape.seq < 1 && family.positions != Positions::image) {
      throw Fault{fmt::format("--seq: {} is not in 1..{}", shape.seq, kMaxSeq)};
    }
    if (learned && shape.seq > longest_sequence(model)) {
      throw Fault{fmt::format(
          "a sequence of {} does not fit {}'s {} positions ({} in the config; --set changes it)",
          shape.seq, run.spec.model, longest_sequence(model), family.positions_key)};
    }
    // Far beyond any card, far below what 64 bits hold when such tensors are added up.
    constexpr Wide kMaxTensor = Wide{1} << 50;
    const std::int64_t seq = family.positions == Positions::image ? model.max_positions : shape.seq;
    const std::int64_t target = std::max(seq, run.spec.target_seq.value_or(seq));
    const Wide rows = Wide{shape.batch} * target;
    const std::int64_t width = std::max({model.vocab_size, model.intermediate_size,
                                         3 * model.hidden_size, model.heads * model.head_dim});
    const Wide pixels = Wide{shape.batch} * model.channels * model.image_size * model.image_size;
    const Wide scores = run.spec.attention == Attention::eager || family.writes_scores
                            ? rows * model.heads * target
                            : Wide{0};
    const Wide experts = model.experts == 0 ? rows : rows * model.experts_per_token;
    if (8 * std::max({experts * width, scores, pixels}) > kMaxTensor) {
      throw Fault{fmt::format("batch {} x sequence {} makes tensors of more than a PiB",
                              shape.batch, shape.seq)};
    }
  }
}

}  // namespace peakcast::app
