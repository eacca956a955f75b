#include "sim/app/engine.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/prediction.hpp"
#include "sim/app/program_run.hpp"
#include "sim/core/embedded.hpp"
#include "sim/core/text_file.hpp"
#include "sim/trace/byte_source.hpp"
#include "workloads/model_config.hpp"
#include "workloads/run_words.hpp"

namespace peakcast {
std::span<const EmbeddedFile> embedded_described_run();
}  // namespace peakcast

namespace peakcast::app {
namespace {

constexpr std::array<std::pair<std::string_view, Engine>, 3> kEngines{
    {{"auto", Engine::automatic}, {"native", Engine::native}, {"captured", Engine::captured}}};

/// Of a run that only PyTorch itself works out.
constexpr std::array<std::string_view, 14> kCapturedOnly{"images",
                                                         "offload",
                                                         "compile",
                                                         "program",
                                                         "zero-init",
                                                         "tensor-parallel",
                                                         "sequence-parallel",
                                                         "pipeline-parallel",
                                                         "virtual-pipeline",
                                                         "microbatches",
                                                         "context-parallel",
                                                         "expert-parallel",
                                                         "distributed-optimizer",
                                                         "recompute"};

void write_text(const std::filesystem::path& path, std::string_view text) {
  static_cast<void>(value_or_throw(write_file(path.string(), std::string{text}, true)));
}

/// As transformers reads it: `dtype`, of old `torch_dtype`.
std::optional<Precision> precision_of(const Json& config) {
  if (!config.is_object()) {
    return std::nullopt;
  }
  for (const char* const key : {"dtype", "torch_dtype"}) {
    const auto word = config.find(key);
    if (word != config.end() && word->is_string()) {
      return *word == "bfloat16"  ? std::optional{Precision::bf16}
             : *word == "float16" ? std::optional{Precision::fp16}
                                  : std::optional{Precision::fp32};
    }
  }
  return std::nullopt;
}

void strip(std::string& text, const std::string& prefix) {
  if (text.starts_with(prefix)) {
    text.erase(0, prefix.size());
  }
}

/// Flags that nobody reads but the program itself, out of the echo.
template <class T>
void kept(CommandLine& line, const char* name, const char* words, T value,
          const std::function<Expected<T>(const std::string&)>& read, const char* help) {
  const auto place = std::make_shared<T>(value);
  line.value(
      name, words, "",
      [place, read](const std::string& word) -> Expected<Ok> {
        auto found = read(word);
        if (!found) {
          return found.error();
        }
        *place = *std::move(found);
        return Ok{};
      },
      [place] { return Json(*place); }, help);
}

void kept_text(CommandLine& line, const char* name, const char* words, const char* help) {
  kept<std::string>(
      line, name, words, "", [](const std::string& word) { return Expected<std::string>{word}; },
      help);
}

void kept_flag(CommandLine& line, const char* name, const char* help) {
  kept<bool>(
      line, name, "", false, [](const std::string&) { return Expected<bool>{true}; }, help);
}

void kept_number(CommandLine& line, const char* name, const char* help) {
  kept<std::int64_t>(
      line, name, "N", 0,
      [](const std::string& word) -> Expected<std::int64_t> {
        constexpr std::int64_t kMost = 1 << 20;
        std::int64_t value{};
        const char* const end = word.data() + word.size();
        const auto read = std::from_chars(word.data(), end, value);
        if (read.ec != std::errc{} || read.ptr != end || value < 0 || value > kMost) {
          return invalid_input(fmt::format("'{}' is not a number in 0..{}", word, kMost));
        }
        return value;
      },
      help);
}

/// Folders of our own are nobody's business, and differ from run to run.
void strip_folder(CaptureAnswer& found, const std::string& own) {
  for (CaptureRunAnswer& run : found.runs) {
    strip(run.run.ran_out_at, own);
    for (capture::Assumption& assumption : run.run.assumed) {
      strip(assumption.site, own);
    }
  }
}

/// The program and what it is to read. Throws Fault: a config that is no JSON.
void write_program(const std::filesystem::path& folder, const CommandLine& line, RunFlags& flags,
                   const Json& changes) {
  for (const EmbeddedFile& file : embedded_described_run()) {
    write_text(folder / (std::string{file.name} + ".py"), file.text);
  }
  Json json;
  // A name that is neither built in nor a file may be one of the local Hugging Face cache.
  const auto config = config_text(flags.spec().model);
  json["config"] = config ? Json::parse(*config, nullptr, false) : Json(nullptr);
  if (json["config"].is_discarded()) {
    throw Fault{fmt::format("{}: not JSON", flags.spec().model)};
  }
  if (const auto precision = precision_of(json["config"])) {
    flags.take_config_precision(*precision);
  }
  json["inputs"] = line.echo();
  json["inputs"].update(changes);
  write_text(folder / "run.json", json_text(json));
}

/// The words of --program, behind the Python.
std::vector<std::string> program_words(const std::string& python, const Json& inputs) {
  std::vector<std::string> words{python};
  const auto program = inputs.at("program").get<std::string>();
  std::string_view rest = program;
  while (!rest.empty()) {
    const std::size_t space = rest.find(' ');
    std::string word{rest.substr(0, space)};
    for (const char* const name : {"batch", "seq", "world"}) {
      const std::string place = fmt::format("{{{}}}", name);
      for (std::size_t at = word.find(place); at != std::string::npos; at = word.find(place, at)) {
        word.replace(at, place.size(), inputs.at(name).dump());
      }
    }
    if (!word.empty()) {
      words.push_back(std::move(word));
    }
    rest.remove_prefix(space == std::string_view::npos ? rest.size() : space + 1);
  }
  return words;
}

/// --rank all is one of each pipeline stage (the slowest dimension of torch's mesh and of
/// Megatron's groups alike); without stages the first and the last, between which none differs but
/// by what does not divide.
std::vector<std::int64_t> ranks_to_run(const Json& inputs) {
  if (inputs.at("rank") != "all") {
    return {inputs.at("rank").get<std::int64_t>()};
  }
  const auto world = inputs.at("world").get<std::int64_t>();
  const auto said = inputs.at("pipeline_parallel").get<std::int64_t>();
  const std::int64_t stages = said > 0 ? said : inputs.at("parallel") == "pp" ? world : 1;
  std::vector<std::int64_t> ranks;
  for (std::int64_t stage = 0; stages > 1 && stage < stages && world % stages == 0; ++stage) {
    ranks.push_back(stage * (world / stages));
  }
  if (ranks.empty()) {
    ranks.push_back(0);
    if (world > 1) {
      ranks.push_back(world - 1);
    }
  }
  return ranks;
}

/// Throws Fault when the program did not come to its end, but for memory.
CaptureAnswer answered(const CaptureQuestion& question) {
  CaptureAnswer found = answer(question);
  if (found.end.interrupted) {
    throw Fault{"interrupted"};
  }
  if (found.runs.empty() || (found.end.status != 0 && found.fits())) {
    throw Fault{
        fmt::format("the captured engine's program ended with status {}; what it said stands above "
                    "(--python names a Python with PyTorch and transformers)",
                    found.end.status)};
  }
  return found;
}

}  // namespace

EngineFlags::EngineFlags(CommandLine& line) : line_{line} {
  line.topic("engine");
  line.choice<Engine>("engine", kEngines, engine_,
                      "native: peakcast's own PyTorch, milliseconds; captured: the run's own "
                      "program on an emulated card, seconds; auto: native where it can");
  line.text("python", "PROGRAM", python_,
            "the Python of the captured engine, with PyTorch and transformers");
  line.text("images", "WxH", images_, "size of images, of models that take any (captured)");
  line.text(
      "offload", "LIST", offload_,
      "activations (kept on the host), params (FSDP's shards and their optimizer) (captured)");
  line.flag("compile", compile_, "torch.compile (captured)");
  kept_text(line, "program", "\"FILE ...\"",
            "a training program of your own in place of --model, with its words, among which "
            "{batch}, {seq} and {world} stand for the flags' values (captured)");
  kept_flag(line, "zero-init", "zero3: the model is made under deepspeed.zero.Init (captured)");
  kept_number(line, "tensor-parallel",
              "tp, fsdp2+tp, megatron: ranks that share each layer; 0: all of tp's (captured)");
  kept_flag(line, "sequence-parallel",
            "with it: norms and what adds up between them cut along the sequence (captured)");
  kept_number(line, "pipeline-parallel",
              "pp, megatron: ranks in a pipeline; 0: all of pp's (captured)");
  kept_number(line, "virtual-pipeline", "stages of each rank of it (captured)");
  kept_number(line, "microbatches",
              "pp, megatron: of --batch each, in a step; 0: one a stage (captured)");
  kept_number(line, "context-parallel", "megatron (captured)");
  kept_number(line, "expert-parallel", "megatron (captured)");
  kept_flag(line, "distributed-optimizer", "megatron (captured)");
  kept_text(line, "recompute", "none|selective|full", "megatron (captured)");
  line.topic("");
}

bool EngineFlags::captures() const {
  const bool asks = std::any_of(kCapturedOnly.begin(), kCapturedOnly.end(),
                                [&](std::string_view flag) { return line_.given(flag); });
  if (asks && engine_ == Engine::native) {
    const auto* const first =
        std::find_if(kCapturedOnly.begin(), kCapturedOnly.end(),
                     [&](std::string_view flag) { return line_.given(flag); });
    throw Fault{fmt::format("--{} is not modelled natively: it needs --engine captured", *first)};
  }
  return asks || engine_ == Engine::captured;
}

bool EngineFlags::captures_after(const Fault& fault) const {
  const bool captured = engine_ == Engine::automatic && fault.code() == ErrorCode::unsupported;
  if (captured) {
    line_.console().note(fmt::format("engine: captured ({})", fault.what()));
  }
  return captured;
}

CaptureAnswer capture_described(const CommandLine& line, RunFlags& flags, const EngineFlags& engine,
                                const DescribedCapture& how) {
  // The program's end is a signal of this whole process, and ranks meet at one port.
  static std::mutex one_at_a_time;
  const std::lock_guard lock{one_at_a_time};
  const RunSpec& spec = flags.spec();
  const ScratchFolder folder;
  CaptureQuestion question{.gpu = spec.gpu,
                           .capacity = how.unbounded ? kLargestCard : spec.capacity,
                           .limit = how.unbounded ? std::nullopt : flags.limit(),
                           .alloc_conf = flags.alloc_conf().value_or(""),
                           .quiet = true};
  const bool own = line.given("program");
  if (own == flags.given()) {
    throw Fault{own ? "--program and --model exclude one another"
                    : "--model is missing ('peakcast models' lists the built-in ones)"};
  }
  if (!own) {
    write_program(folder.path(), line, flags, how.changes);
  }
  Json inputs = line.echo();
  inputs.update(how.changes);
  question.world = inputs["world"].get<std::int64_t>();
  question.program =
      own ? program_words(engine.python(), inputs)
          : std::vector{engine.python(), (folder.path() / "described_run.py").string(),
                        (folder.path() / "run.json").string()};
  const auto begin = std::chrono::steady_clock::now();
  CaptureAnswer found;
  for (const std::int64_t rank : ranks_to_run(inputs)) {
    question.rank = question.world > 1 ? std::to_string(rank) : "";
    CaptureAnswer one = answered(question);
    if (found.runs.empty()) {
      found = std::move(one);
    } else {
      std::move(one.runs.begin(), one.runs.end(), std::back_inserter(found.runs));
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  if (!own) {
    found.question.program = {engine.python(), "described_run.py", "run.json"};
    strip_folder(found, folder.path().string() + "/");
  }
  line.console().note(fmt::format("engine: captured, {:.0f} s", took.count()));
  return found;
}

CaptureAnswer capture_as_pytorch(const CommandLine& line, RunFlags& flags,
                                 const EngineFlags& engine, const DescribedCapture& how) {
  for (const PolicyName& policy : flags.policies()) {
    if (policy.text() != "pytorch") {
      throw Fault{
          fmt::format("--policy {}: the captured engine runs PyTorch's own allocator ('peakcast "
                      "compare --engine captured' sets others beside it)",
                      policy.text())};
    }
  }
  return capture_described(line, flags, engine, how);
}

std::string captured_text(const RunFlags& flags, const EngineFlags& engine,
                          const CaptureAnswer& found) {
  const RunSpec& spec = flags.spec();
  if (!flags.given()) {
    return fmt::format("{}, engine captured ({}, PyTorch {})\n\n", found.gpu.name, engine.python(),
                       found.runs.front().run.trace.recording->framework);
  }
  return fmt::format("{}, {}, {}, {} iterations\n{}, engine captured ({}, PyTorch {})\n\n",
                     spec.model, word_of(spec.precision), word_of(spec.optimizer), spec.iterations,
                     found.gpu.name, engine.python(),
                     found.runs.front().run.trace.recording->framework);
}

CapturedTrace captured_trace(const CommandLine& line, RunFlags& flags, const EngineFlags& engine) {
  CaptureAnswer found = capture_described(line, flags, engine, {.unbounded = true});
  const Bytes capacity =
      flags.capacity().value_or(value_or_throw(load_gpu_description(flags.spec().gpu)).spec.total);
  CapturedTrace out{.capacity = capacity, .outside = found.outside_sum};
  out.loaded.trace = std::move(found.runs.front().run.trace);
  out.loaded.trace.recording->device_total = capacity;
  flags.settle_limit(capacity);
  const std::optional<MemoryLimit> limit = flags.limit();
  out.loaded.trace.recording->limit = limit ? limit->size() : std::nullopt;
  return out;
}

}  // namespace peakcast::app
