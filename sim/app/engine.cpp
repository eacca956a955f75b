#include "sim/app/engine.hpp"

#include <algorithm>
#include <array>
#include <chrono>
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
constexpr std::array<std::string_view, 3> kCapturedOnly{"images", "offload", "compile"};

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

}  // namespace

EngineFlags::EngineFlags(CommandLine& line) : line_{line} {
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
}

bool EngineFlags::captures() const {
  const bool asks = std::any_of(kCapturedOnly.begin(), kCapturedOnly.end(),
                                [&](std::string_view flag) { return line_.given(flag); });
  if (asks && engine_ == Engine::native) {
    throw Fault{"--images, --offload and --compile need --engine captured"};
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
  const std::filesystem::path program = folder.path() / "described_run.py";
  const std::filesystem::path description = folder.path() / "run.json";
  for (const EmbeddedFile& file : embedded_described_run()) {
    write_text(folder.path() / (std::string{file.name} + ".py"), file.text);
  }
  Json json;
  // A name that is neither built in nor a file may be one of the local Hugging Face cache.
  const auto config = config_text(spec.model);
  json["config"] = config ? Json::parse(*config, nullptr, false) : Json(nullptr);
  if (json["config"].is_discarded()) {
    throw Fault{fmt::format("{}: not JSON", spec.model)};
  }
  if (const auto precision = precision_of(json["config"])) {
    flags.take_config_precision(*precision);
  }
  json["inputs"] = line.echo();
  json["inputs"].update(how.changes);
  write_text(description, json_text(json));

  const auto world = json["inputs"]["world"].get<std::int64_t>();
  CaptureQuestion question{.gpu = spec.gpu,
                           .capacity = how.unbounded ? kLargestCard : spec.capacity,
                           .limit = how.unbounded ? std::nullopt : flags.limit(),
                           .alloc_conf = flags.alloc_conf().value_or(""),
                           .world = world,
                           .rank = world > 1 ? std::to_string(spec.rank) : "",
                           .quiet = true,
                           .program = {engine.python(), program.string(), description.string()}};
  const auto begin = std::chrono::steady_clock::now();
  CaptureAnswer found = answer(question);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  // Folders of our own are nobody's business, and differ from run to run.
  found.question.program = {engine.python(), "described_run.py", "run.json"};
  const std::string own = folder.path().string() + "/";
  for (CaptureRunAnswer& run : found.runs) {
    strip(run.run.ran_out_at, own);
    for (capture::Assumption& assumption : run.run.assumed) {
      strip(assumption.site, own);
    }
  }
  if (found.end.interrupted) {
    throw Fault{"interrupted"};
  }
  if (found.runs.empty() || (found.end.status != 0 && found.fits())) {
    throw Fault{
        fmt::format("the captured engine's program ended with status {}; what it said stands above "
                    "(--python names a Python with PyTorch and transformers)",
                    found.end.status)};
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
  out.loaded.trace.recording->limit = flags.limit();
  return out;
}

}  // namespace peakcast::app
