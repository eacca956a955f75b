#include "sim/app/explain_answer.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "allocators/registry.hpp"
#include "sim/app/command.hpp"
#include "sim/app/compare_answer.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/size_text.hpp"

namespace peakcast::app {
namespace {

/// What one can switch to with a settings string or an import, to see what it would have held.
constexpr std::array<std::string_view, 6> kAlternatives{"pytorch",
                                                        "pytorch+expandable_segments:True",
                                                        "pytorch+roundup_power2_divisions:4",
                                                        "cuda-malloc-async",
                                                        "gmlake",
                                                        "peakcast"};

std::vector<PolicyName> alternatives_to(std::string_view policy) {
  std::vector<PolicyName> names;
  for (const std::string_view name : kAlternatives) {
    PolicyName parsed = PolicyName::parse(name);
    if (name != policy && find_policy(parsed.base) != nullptr) {
      names.push_back(std::move(parsed));
    }
  }
  return names;
}

/// The floor, and which alternatives hold less.
void compare_into(ExplainAnswer& found, CompareQuestion question) {
  question.policies = alternatives_to(found.policy);
  question.policies_given = true;
  question.packs = false;
  const CompareAnswer compared = answer(question);
  found.floor = compared.packing.floor;
  for (const CompareAnswer::Row& row : compared.rows) {
    const Bytes reserved{row.report.statistics.reserved.peak};
    if (!row.report.oom && reserved < found.waste.reserved) {
      found.alternatives.push_back({row.policy.text(), reserved});
    }
  }
  std::stable_sort(found.alternatives.begin(), found.alternatives.end(),
                   [](const auto& a, const auto& b) { return a.peak_reserved < b.peak_reserved; });
}

ExplainAnswer explained(const ReplayQuestion& question, const std::optional<LoadedTrace>& loaded) {
  ReplayAnswer replayed = loaded ? settled(question, *loaded) : settled(question);
  ExplainAnswer found{.policy = replayed.policy.text(),
                      .alloc_conf = replayed.alloc_conf,
                      .card = replayed.device.total,
                      .streams = replayed.loaded.trace.streams,
                      .warnings = replayed.warnings};
  found.subject = fmt::format("{} on {}{}{}", found.policy, question.trace,
                              found.alloc_conf.empty() ? "" : ", " + found.alloc_conf,
                              replayed.limit ? ", limit " + size_text(*replayed.limit) : "");
  const auto run = [&](const PolicyWatch& watch) -> Expected<Ok> {
    replay_into(replayed, watch);
    return Ok{};
  };
  found.waste = value_or_throw(explain_waste(replayed.loaded.trace, run));
  if (question.trace != "-") {  // which can be read once only
    compare_into(found, {.trace = question.trace,
                         .loaded = loaded,
                         .outside = question.outside,
                         .alloc_conf = "",
                         .limit = replayed.limit,
                         .capacity = replayed.device.total});
  } else {
    found.floor = largest_live_sum(lifetimes_of(replayed.loaded.trace));
  }
  return found;
}

ExplainAnswer explained(const Run& described) {
  const Program trace = program_of(described, Time::none);
  ExplainAnswer found{.subject = run_text(described),
                      .policy = described.policy.text(),
                      .alloc_conf = described.alloc_conf,
                      .streams = trace.streams};
  const auto run = [&](const PolicyWatch& watch) -> Expected<Ok> {
    static_cast<void>(predict(described, trace, Time::none, nullptr, watch));
    return Ok{};
  };
  found.waste = value_or_throw(explain_waste(trace, run));
  compare_into(found, {.run = described});
  return found;
}

}  // namespace

ExplainAnswer answer(const ExplainQuestion& question) {
  const auto* const run = std::get_if<Run>(&question.subject);
  ExplainAnswer found =
      run != nullptr ? explained(*run)
                     : explained(std::get<ReplayQuestion>(question.subject), question.loaded);
  if (run != nullptr || question.loaded) {
    found.engine = run != nullptr ? "native" : "captured";
  }
  return found;
}

}  // namespace peakcast::app
