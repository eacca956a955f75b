#include "sim/app/prediction.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "allocators/registry.hpp"
#include "sim/app/command.hpp"
#include "sim/core/size_text.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/timed_streams.hpp"
#include "sim/report/table.hpp"
#include "workloads/card_costs.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

/// PyTorch's allocator without a release is the framework's own: "pytorch" under pytorch-2.6 is
/// pytorch@2.6.
PolicyName policy_of(const Run& run) {
  PolicyName name = run.policy;
  if (name.is_pytorch() && name.release.empty()) {
    name.release = run.spec.framework.substr(run.spec.framework.find('-') + 1);
  }
  return name;
}

std::string count_in_words(std::int64_t parameters) {
  constexpr double kMillion = 1e6;
  constexpr double kBillion = 1e9;
  const auto count = static_cast<double>(parameters);
  return count < kBillion ? fmt::format("{:.1f} M", count / kMillion)
                          : fmt::format("{:.1f} B", count / kBillion);
}

}  // namespace

Program program_of(const Run& run, Time time) {
  const bool several_streams = run.spec.parallel != Parallel::none;
  std::optional<CardCosts> costs;
  if (time == Time::simulated || several_streams || needs_time(run.policy)) {
    costs.emplace(run.gpu);
    costs->set_host_speed(run.host_speed);
  }
  return value_or_throw(generate(
      run.spec, run.model, {.gpu = traits_of(run.gpu), .cost_model = costs ? &*costs : nullptr}));
}

Program program_of(const Run& run, const torch::CostModel& costs) {
  return value_or_throw(
      generate(run.spec, run.model, {.gpu = traits_of(run.gpu), .cost_model = &costs}));
}

Bytes sum_of(const std::vector<OutsideItem>& items) {
  Bytes sum;
  for (const OutsideItem& item : items) {
    sum += item.size;
  }
  return sum;
}

Bytes Prediction::peak_device() const {
  return Bytes{report.statistics.reserved.peak} + outside_sum;
}

Prediction predict(const Run& run, const Program& program, Time time, TimelineWriter* timeline,
                   const PolicyWatch& watch, ReplayObserver* observer) {
  Prediction prediction;
  prediction.outside = outside_items(run.gpu, program.used);
  prediction.outside_sum = sum_of(prediction.outside);
  if (prediction.outside_sum >= run.gpu.spec.total) {
    throw Fault{fmt::format("{} of memory are less than what lies outside the allocator ({})",
                            size_text(run.gpu.spec.total), size_text(prediction.outside_sum))};
  }
  const bool timed =
      time == Time::simulated || program.streams.size() > 1 || needs_time(run.policy);
  IdleStreams idle;
  TimedStreams clock{{.streams = static_cast<std::uint32_t>(program.streams.size())}};
  Streams& streams = timed ? static_cast<Streams&>(clock) : static_cast<Streams&>(idle);
  SimulatedDevice device{{.spec = run.gpu.spec,
                          .outside = prediction.outside_sum,
                          .kept = run.gpu.kept(),
                          .shared_page_limit = run.gpu.shared_page_limit,
                          .costs = &run.gpu.driver_costs,
                          .streams = &streams}};
  const auto policy = value_or_throw(make_policy(
      policy_of(run), device, streams, {.alloc_conf = run.alloc_conf, .limit = run.limit}));
  const TimedReplay timing{.streams = &clock, .timeline = timeline};
  ReplayOptions options{.stop_at_oom = true, .observer = observer};
  if (timed) {
    options.timing = &timing;
  }
  prediction.report = replay(program, watch ? watch(*policy) : *policy, device, options);
  if (prediction.report.fault) {
    throw Fault{*prediction.report.fault};
  }
  return prediction;
}

std::string shapes_text(const RunSpec& spec) {
  std::string text;
  for (const BatchShape& shape : spec.shapes) {
    text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", shape.batch, shape.seq);
  }
  return text;
}

std::string run_text(const Run& run, const VariedWords& varied) {
  constexpr char kKept = '\x1f';  // a space at which no line is broken
  const RunSpec& spec = run.spec;
  std::string text =
      fmt::format("{} ({}, {} parameters), {}, {} attention, {}", run.model.name,
                  to_string(run.model.task), count_in_words(parameter_count(run.model)),
                  word_of(spec.precision), word_of(spec.attention), word_of(spec.optimizer));
  if (run.config_precision) {
    text += " (precision: the config's)";
  }
  if (spec.lora.rank > 0) {
    text += fmt::format("\nLoRA of rank {}", spec.lora.rank);
    if (spec.quantize != Quantize::none) {
      text += fmt::format(" on {} weights", word_of(spec.quantize));
    }
  }
  if (!spec.freeze.empty()) {
    text += fmt::format("\nfrozen: {}", spec.freeze);
  }
  if (spec.fused_loss != FusedLoss::none) {
    text += ", fused loss";
  }
  if (spec.checkpoint != Checkpoint::none) {
    text += ", checkpointing";
  }
  if (spec.parallel != Parallel::none) {
    const std::string ranks = varied.ranks.empty() ? std::to_string(spec.world) : varied.ranks;
    text += fmt::format(", {}{}on{}{}{}{}", word_of(spec.parallel), kKept, kKept, ranks, kKept,
                        ranks == "1" ? "rank" : "ranks");
  }
  text += fmt::format("\nbatch x sequence {}",
                      varied.shapes.empty() ? shapes_text(spec) : varied.shapes);
  if (spec.accumulate > 1) {
    text += fmt::format(", {} micro-batches a step", spec.accumulate);
  }
  const std::string card =
      varied.cards.empty() ? fmt::format("{} with {}", run.gpu.name, size_text(run.gpu.spec.total))
                           : varied.cards;
  text += fmt::format(", {} iterations\n{}, {}", spec.iterations, card, run.policy.text());
  if (!run.alloc_conf.empty()) {
    text += " " + run.alloc_conf;
  }
  if (run.limit) {
    text += fmt::format(", limit {}", size_text(*run.limit));
  }
  text = folded(text + "\n", "  ");
  std::replace(text.begin(), text.end(), kKept, ' ');
  return text;
}

}  // namespace peakcast::app
