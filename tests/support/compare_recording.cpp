// Predicts recordings' scenarios and prints prediction beside measurement, a line each:
//     name  allocated  active  reserved (predicted / recorded, difference)  step ms (predicted /
//     timed)  bound by
// compare_recording [--timing DIR] RECORDING.json...
// A timing file of the same name gives the step time without recording: the median of all
// iterations but the first, on the card's clock.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "allocators/registry.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "tests/support/recorded_run.hpp"
#include "workloads/card_costs.hpp"
#include "workloads/generate.hpp"

namespace {

using namespace peakcast;
using nlohmann::json;

double percent(double value, double of) { return of == 0 ? 0 : 100.0 * (value - of) / of; }

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int compare(const std::string& path, const std::string& timing_folder) {
  std::ifstream file{path};
  const json recorded = json::parse(file, nullptr, false);
  const auto spec = testing::recorded_run(path);
  if (recorded.is_discarded() || !spec) {
    std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
    return 2;
  }
  const json& scenario = recorded.at("scenario");
  const std::string name = scenario.at("name");
  CardCosts costs{reference_gpu()};
  // With one card FSDP was recorded on a process group that does nothing.
  const bool fake = scenario.contains("fsdp") && name.find("2gpu") == std::string::npos;
  costs.set_idle_links(fake && scenario.at("fsdp").at("version") != "ddp");
  const auto trace = generate(*spec, {.cost_model = &costs});
  if (!trace) {
    std::printf("%-44s %s\n", name.c_str(), to_string(trace.error()).c_str());
    return 1;
  }
  const auto gpu = load_gpu_description("h100-80g");
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(trace->streams.size())}};
  SimulatedDevice device{{.spec = gpu->spec, .outside = Bytes{800 << 20}, .streams = &clock}};
  PolicyOptions options;
  options.alloc_conf = scenario.value("alloc_conf", std::string{});
  if (recorded.contains("allowed_bytes")) {
    options.limit = Bytes{recorded.at("allowed_bytes").get<std::int64_t>()};
  }
  const auto policy = make_policy("pytorch", device, clock, options);
  if (!policy) {
    std::printf("%-44s %s\n", name.c_str(), to_string(policy.error()).c_str());
    return 1;
  }
  const TimedReplay timing{.streams = &clock};
  const ReplayReport report =
      replay(*trace, **policy, device, {.stop_at_oom = true, .timing = &timing});
  const Statistics& mine = report.statistics;
  const json& theirs = recorded.contains("final") ? recorded.at("final") : json::object();
  const auto recorded_of = [&](const char* key) {
    return theirs.contains(key) ? theirs.at(key).get<double>() : 0.0;
  };
  std::printf("%-40s", name.c_str());
  const auto column = [](double predicted, double measured) {
    std::printf(" %9.1f %9.1f %+7.3f%%", predicted / (1 << 20), measured / (1 << 20),
                percent(predicted, measured));
  };
  column(static_cast<double>(mine.allocated.peak), recorded_of("allocated_bytes.all.peak"));
  column(static_cast<double>(mine.active.peak), recorded_of("active_bytes.all.peak"));
  column(static_cast<double>(mine.reserved.peak), recorded_of("reserved_bytes.all.peak"));
  std::vector<double> predicted_ms;
  TimeSplit split;
  for (std::size_t i = 1; i < report.iterations.size(); ++i) {
    predicted_ms.push_back(static_cast<double>(report.iterations[i].duration.count()) / 1e6);
    split = report.iterations[i].split;
  }
  std::vector<double> measured_ms;
  std::ifstream timed{timing_folder + "/" + name + ".json"};
  const json times = timed ? json::parse(timed, nullptr, false) : recorded;
  for (std::size_t i = 1; i < times.at("gpu_ms").size(); ++i) {
    measured_ms.push_back(times.at("gpu_ms")[i].get<double>());
  }
  const double a = median(predicted_ms);
  const double b = median(measured_ms);
  const double total = std::max(1.0, static_cast<double>(split.total().count()));
  std::printf(
      "  %7.1f %7.1f %+6.1f%%  compute %3.0f%% comm %3.0f%% alloc %3.0f%% host %3.0f%%%s  retries "
      "%ld/%.0f\n",
      a, b, percent(a, b), 100.0 * static_cast<double>(split.compute.count()) / total,
      100.0 * static_cast<double>(split.communication.count()) / total,
      100.0 * static_cast<double>(split.allocator.count()) / total,
      100.0 * static_cast<double>(split.host.count()) / total, report.oom ? "  OOM" : "",
      static_cast<long>(mine.num_alloc_retries), recorded_of("num_alloc_retries"));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string timing_folder;
  int worst = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::string{argv[i]} == "--timing" && i + 1 < argc) {
      timing_folder = argv[++i];
      continue;
    }
    worst = std::max(worst, compare(argv[i], timing_folder));
  }
  return worst;
}
