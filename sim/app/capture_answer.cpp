#include "sim/app/capture_answer.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "allocators/pytorch/settings.hpp"
#include "allocators/registry.hpp"
#include "sim/app/command.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/host.hpp"
#include "sim/core/embedded.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/timed_streams.hpp"
#include "workloads/capture/assumed_values.hpp"
#include "workloads/capture/settings.hpp"

namespace peakcast {
std::span<const EmbeddedFile> embedded_library_names();
}  // namespace peakcast

namespace peakcast::app {
namespace {

/// The emulated card's library: beside the program in a build, in lib/ beside bin/ once installed.
std::filesystem::path capture_library() {
  std::error_code error;
  const std::filesystem::path here =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  constexpr const char* kName = "libpeakcast_capture.so";
  for (const std::filesystem::path& folder :
       {here / "capture", here.parent_path() / "lib" / "peakcast"}) {
    if (std::filesystem::exists(folder / kName, error)) {
      return folder / kName;
    }
  }
  throw Fault{fmt::format("{} is not beside this program: neither in {} nor in {}", kName,
                          (here / "capture").string(),
                          (here.parent_path() / "lib" / "peakcast").string())};
}

/// A folder in which the library goes by each name of those that it stands in for: links, since an
/// installed package may not hold any, and a loader that met copies would load it many times.
std::filesystem::path named_libraries(const std::filesystem::path& library,
                                      const std::filesystem::path& scratch) {
  std::filesystem::path folder = scratch / "libraries";
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  std::istringstream names{std::string{embedded_library_names().front().text}};
  for (std::string name; !error && std::getline(names, name);) {
    std::filesystem::create_symlink(library, folder / name, error);
  }
  if (error) {
    throw Fault{fmt::format("{}: {}", folder.string(), error.message())};
  }
  return folder;
}

std::string before(const std::string& first, const char* variable) {
  const char* const rest = std::getenv(variable);
  return rest != nullptr && *rest != '\0' ? first + ":" + rest : first;
}

/// Counts the events of a replay that are the captured ones.
class Matcher final : public EventSink {
 public:
  explicit Matcher(const std::vector<AllocatorEvent>& events) : events_{events} {}
  void on_event(const AllocatorEvent& event) override {
    while (next_ < events_.size() && events_[next_].action == Action::snapshot) {
      ++next_;
    }
    if (next_ < events_.size()) {
      const AllocatorEvent& was = events_[next_++];
      matched_ += was.action == event.action && was.size == event.size && was.stream == event.stream
                      ? 1
                      : 0;
    }
  }
  [[nodiscard]] std::int64_t matched() const { return matched_; }

 private:
  const std::vector<AllocatorEvent>& events_;
  std::size_t next_{};
  std::int64_t matched_{};
};

/// "2.11.0+cu130" -> "pytorch@2.11", as far as the release is known.
std::string policy_of(const std::string& framework) {
  const std::size_t second_dot = framework.find('.', framework.find('.') + 1);
  const std::string release = framework.substr(0, second_dot);
  return pytorch::find_version(release) ? "pytorch@" + release : "pytorch";
}

/// The same program against the emulated card's clock.
ReplayReport timed_replay(const Trace& trace, const GpuDescription& gpu, Bytes outside) {
  const Recording& recording = *trace.recording;
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(trace.streams.size())}};
  SimulatedDevice device{
      {.spec = gpu.spec, .outside = outside, .kept = gpu.spec.granularity, .streams = &clock}};
  const auto policy =
      value_or_throw(make_policy(policy_of(recording.framework), device, clock,
                                 {.alloc_conf = recording.alloc_conf, .limit = recording.limit}));
  const TimedReplay timing{.streams = &clock};
  return replay(trace, *policy, device, {.timing = &timing});
}

/// With the recorded addresses and the recorded times of what was held: what PyTorch did, so that
/// its books are known. The replay says how far that is true.
CaptureRunAnswer replayed(capture::CapturedRun&& run, const GpuDescription& gpu, Bytes outside) {
  CaptureRunAnswer out{.run = std::move(run)};
  const Trace& trace = out.run.recorded;
  const Recording& recording = *trace.recording;
  RecordedStreams streams{trace};
  RecordedAddresses addresses{recording};
  SimulatedDevice device{{.spec = gpu.spec,
                          .outside = outside,
                          .kept = gpu.kept(),
                          .shared_page_limit = gpu.shared_page_limit,
                          .costs = &gpu.driver_costs,
                          .addresses = &addresses}};
  const auto policy =
      value_or_throw(make_policy(policy_of(recording.framework), device, streams,
                                 {.alloc_conf = recording.alloc_conf, .limit = recording.limit}));
  Matcher matcher{recording.events};
  policy->set_sink(&matcher);
  out.report = replay(trace, *policy, device, {.streams = &streams, .addresses = &addresses});
  out.oom = oom_answer(out.report, trace, gpu.spec, recording.limit, true);
  out.events =
      std::count_if(recording.events.begin(), recording.events.end(),
                    [](const AllocatorEvent& event) { return event.action != Action::snapshot; });
  out.matched = matcher.matched();
  out.timed = timed_replay(out.run.trace, gpu, outside);
  return out;
}

using Variables = std::vector<std::pair<std::string, std::string>>;

/// How the program is started: as it is, as one rank of which the others exist only in name (what
/// torchrun would set is added to `variables`), or by torchrun as all of them.
std::vector<std::string> ranks_of(const CaptureQuestion& question, Variables& variables) {
  constexpr std::int64_t kCardsOfANode = 8;
  const std::vector<std::string>& program = question.program;
  if (question.rank.empty()) {
    return program;
  }
  if (question.rank == "all") {
    const std::string name = std::filesystem::path{program.front()}.filename().string();
    if (!name.starts_with("python")) {
      throw Fault{"--rank all starts 'python PROGRAM' on every rank; '" + name +
                  "' has to start its ranks itself"};
    }
    std::vector<std::string> all{program.front(),         "-m",
                                 "torch.distributed.run", "--standalone",
                                 "--nproc-per-node",      std::to_string(question.world)};
    all.insert(all.end(), program.begin() + 1, program.end());
    return all;
  }
  std::int64_t rank = -1;
  const char* const end = question.rank.data() + question.rank.size();
  const auto [rest, error] = std::from_chars(question.rank.data(), end, rank);
  if (error != std::errc{} || rest != end || rank < 0 || rank >= question.world) {
    throw Fault{"--rank takes 'all' or a number below --world, not '" + question.rank + "'"};
  }
  const std::int64_t node = std::min(question.world, kCardsOfANode);
  for (const auto& [name, value] :
       {std::pair{"RANK", rank}, std::pair{"WORLD_SIZE", question.world},
        std::pair{"LOCAL_RANK", rank % node}, std::pair{"LOCAL_WORLD_SIZE", node},
        std::pair{"GROUP_RANK", rank / node}}) {
    variables.emplace_back(name, std::to_string(value));
  }
  variables.emplace_back("MASTER_ADDR", "127.0.0.1");
  variables.emplace_back("MASTER_PORT", "29500");
  variables.emplace_back(capture::kPartnersVariable, "1");
  return program;
}

}  // namespace

std::size_t CaptureRunAnswer::steps() const {
  // Each step's end begins an iteration, and so does the program's begin.
  return report.iterations.empty() ? 0 : report.iterations.size() - 1;
}

bool CaptureAnswer::fits() const {
  return std::none_of(runs.begin(), runs.end(),
                      [](const CaptureRunAnswer& run) { return run.oom.has_value(); });
}

Bytes CaptureAnswer::room(const CaptureRunAnswer& run) const {
  const Bytes room = gpu.spec.total - peak_device(run);
  return question.limit ? std::min(room, question.limit->of(gpu.spec.total) -
                                             Bytes{run.report.statistics.reserved.peak})
                        : room;
}

const CaptureRunAnswer& CaptureAnswer::worst() const {
  return *std::max_element(runs.begin(), runs.end(), [](const auto& a, const auto& b) {
    const auto key = [](const CaptureRunAnswer& run) {
      return std::pair{run.oom.has_value(), run.report.statistics.reserved.peak};
    };
    return key(a) < key(b);
  });
}

void CaptureQuestion::declare(CommandLine& line) {
  line.text("gpu", "CARD", gpu, "a card of 'peakcast gpus', or a JSON file");
  line.size("capacity", capacity, "the card's memory; the card's own unless given");
  line.limit("limit", limit,
             "the allocator's own limit, as set_per_process_memory_fraction sets it: a size, or "
             "the part of the card (0.5, 50%)");
  line.text("alloc-conf", "STRING", alloc_conf, "PyTorch's settings string for its allocator");
  line.number("world", world, "ranks of the job", 1, 1 << 20);
  line.text("rank", "N", rank,
            "run one rank, of which the others exist only in name, or all of them");
  line.texts("assume", "SITE=VALUE", assumed,
             "answer at one line what depends on data: nonzero@model.py:41=0.3 (a share, for "
             "nonzero and unique), all@model.py:9=false (for all and any)");
  line.flag("stacks", stacks, "keep the Python line of each allocation");
}

std::vector<std::string> program_of(std::span<const std::string>& words) {
  const auto dashes = std::find(words.begin(), words.end(), "--");
  if (dashes == words.end()) {
    return {};
  }
  std::vector<std::string> program(dashes + 1, words.end());
  words = words.first(static_cast<std::size_t>(dashes - words.begin()));
  return program;
}

CaptureAnswer answer(const CaptureQuestion& question) {
  if (host_capture() != nullptr) {
    throw NeedsProcess{};  // signals are waited for, which are the whole process's
  }
  CaptureAnswer captured{.question = question};
  const std::vector<std::string>& program = question.program;
  captured.gpu = value_or_throw(load_gpu_description(question.gpu));
  if (question.capacity) {
    captured.gpu.spec.total = *question.capacity;
  }
  const std::filesystem::path library = capture_library();
  const ScratchFolder scratch;
  std::vector<std::pair<std::string, std::string>> variables{
      {"LD_PRELOAD", before(library.string(), "LD_PRELOAD")},
      {"LD_LIBRARY_PATH",
       before(named_libraries(library, scratch.path()).string(), "LD_LIBRARY_PATH")},
      {capture::kDirectoryVariable, scratch.path().string()},
      {capture::kGpuVariable, std::filesystem::exists(question.gpu)
                                  ? std::filesystem::absolute(question.gpu).string()
                                  : question.gpu},
      {capture::kCapacityVariable, std::to_string(captured.gpu.spec.total.count())},
      {capture::kCardsVariable, std::to_string(std::min<std::int64_t>(question.world, 64))}};
  const std::vector<std::string> started = ranks_of(question, variables);
  const auto limit = settled(captured.question.limit, captured.gpu.spec.total);
  if (limit) {
    variables.emplace_back(capture::kLimitVariable, std::to_string(limit->count()));
  }
  std::string assumed;
  for (const std::string& text : question.assumed) {
    static_cast<void>(value_or_throw(capture::parse_assumed_value(text)));
    assumed += (assumed.empty() ? "" : "\n") + text;
  }
  if (!assumed.empty()) {
    variables.emplace_back(capture::kAssumedVariable, assumed);
  }
  if (question.stacks) {
    variables.emplace_back(capture::kStacksVariable, "1");
  }
  // Empty, too, where our own environment says otherwise: it would reach the program, and the
  // recording would not say so. The newer name wins where both are known.
  if (!question.alloc_conf.empty() || !settings_of_environment().empty()) {
    variables.emplace_back("PYTORCH_CUDA_ALLOC_CONF", question.alloc_conf);
    variables.emplace_back("PYTORCH_ALLOC_CONF", question.alloc_conf);
  }
  captured.end = run_program(started, variables, question.quiet);
  if (captured.end.interrupted) {
    return captured;
  }
  captured.outside = outside_items(captured.gpu, {});
  for (const OutsideItem& item : captured.outside) {
    captured.outside_sum += item.size;
  }
  std::string source;
  for (const std::string& word : program) {
    source += (source.empty() ? "" : " ") + word;
  }
  for (capture::CapturedRun& run : value_or_throw(capture::read_logs(scratch.path(), source))) {
    for (Trace* const trace : {&run.trace, &run.recorded}) {
      trace->recording->alloc_conf = question.alloc_conf;
      trace->recording->limit = limit;
    }
    captured.runs.push_back(replayed(std::move(run), captured.gpu, captured.outside_sum));
  }
  return captured;
}

}  // namespace peakcast::app
