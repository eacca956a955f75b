#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/plan_answer.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "workloads/run_words.hpp"

namespace peakcast::app {
namespace {

constexpr std::string_view kNotSearched =
    "Tensor, pipeline, context and expert parallelism are not modelled natively: none of these "
    "combinations has them.";

Json candidate_json(const Candidate& candidate) {
  const Combination& at = candidate.at;
  const bool fsdp1 = at.split.parallel == Parallel::fsdp1;
  const bool fsdp2 = at.split.parallel == Parallel::fsdp2;
  return {{"flags", flags_text(at, candidate.alloc_conf)},
          {"parallel", word_of(at.split.parallel)},
          {"world", at.world},
          {"shard", fsdp1 ? Json(word_of(at.split.shard)) : Json(nullptr)},
          {"reshard_after_forward",
           fsdp2 ? Json(at.split.reshard_after_forward ? "on" : "off") : Json(nullptr)},
          {"batch", at.batch},
          {"accumulate", at.accumulate},
          {"checkpoint", word_of(at.checkpoint)},
          {"alloc_conf", candidate.alloc_conf},
          {"verdict", to_string(candidate.verdict)},
          {"peak_device_bytes", candidate.peak_device.count()},
          {"peak_reserved_bytes", candidate.peak_reserved.count()},
          {"headroom", headroom_json(candidate.headroom)},
          {"step_ns", candidate.step.count()},
          {"tokens_per_second", candidate.tokens_per_second},
          {"bound_by", candidate.bound_by}};
}

void write_json(const PlanAnswer& answer, Json& json) {
  json["engine"] = "native";
  json["worlds"] = answer.question.axes.worlds;
  json["candidates"] = Json::array();
  for (const Candidate& candidate : answer.candidates) {
    json["candidates"].push_back(candidate_json(candidate));
  }
  json["combinations"] = {{"all", answer.combinations},
                          {"fitting", answer.fitting},
                          {"out_of_memory", answer.out_of_memory},
                          {"slower", answer.slower},
                          {"not_modelled", answer.not_modelled}};
  json["not_modelled"] = {"tensor-parallel", "pipeline-parallel", "context-parallel",
                          "expert-parallel"};
}

std::string csv_of(const PlanAnswer& answer) {
  Table table{{{"world"},
               {"parallel"},
               {"shard"},
               {"reshard_after_forward"},
               {"batch"},
               {"accumulate"},
               {"checkpoint"},
               {"alloc_conf"},
               {"verdict"},
               {"peak_device_bytes"},
               {"peak_reserved_bytes"},
               {"spare_bytes"},
               {"step_ns"},
               {"tokens_per_second"},
               {"bound_by"}}};
  for (const Candidate& candidate : answer.candidates) {
    const Combination& at = candidate.at;
    const bool fsdp1 = at.split.parallel == Parallel::fsdp1;
    const bool fsdp2 = at.split.parallel == Parallel::fsdp2;
    const std::string reshard = at.split.reshard_after_forward ? "on" : "off";
    table.add_row(
        {std::to_string(at.world), std::string{word_of(at.split.parallel)},
         fsdp1 ? std::string{word_of(at.split.shard)} : "", fsdp2 ? reshard : "",
         std::to_string(at.batch), std::to_string(at.accumulate),
         std::string{word_of(at.checkpoint)}, candidate.alloc_conf,
         std::string{to_string(candidate.verdict)}, std::to_string(candidate.peak_device.count()),
         std::to_string(candidate.peak_reserved.count()),
         std::to_string(candidate.headroom.spare.count()), std::to_string(candidate.step.count()),
         std::to_string(candidate.tokens_per_second), std::string{candidate.bound_by}});
  }
  return table.csv();
}

std::string seconds_text(SimDuration time) {
  constexpr double kSecond = 1e9;
  return fmt::format("{:.3f} s", static_cast<double>(time.count()) / kSecond);
}

/// A row a candidate, and below it its flags.
std::string table_text(const PlanAnswer& answer) {
  Table table{{{"cards"},
               {"step"},
               {"tokens/s"},
               {"on the card"},
               {"to spare"},
               {"verdict", Table::Align::left},
               {"bound by", Table::Align::left}}};
  for (const Candidate& candidate : answer.candidates) {
    table.add_row({std::to_string(candidate.at.world), seconds_text(candidate.step),
                   count_text(candidate.tokens_per_second), size_text(candidate.peak_device),
                   size_text(candidate.headroom.spare), std::string{to_string(candidate.verdict)},
                   std::string{candidate.bound_by}});
  }
  const std::string rows = table.text();
  std::size_t from = rows.find('\n') + 1;
  std::string text = rows.substr(0, from);
  for (const Candidate& candidate : answer.candidates) {
    const std::size_t end = rows.find('\n', from) + 1;
    text += rows.substr(from, end - from);
    text += folded("  " + flags_text(candidate.at, candidate.alloc_conf) + "\n", "  ");
    from = end;
  }
  return text;
}

std::string worlds_text(const std::vector<std::int64_t>& worlds) {
  std::string text;
  for (const std::int64_t world : worlds) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", world);
  }
  return text + (worlds == std::vector<std::int64_t>{1} ? " card" : " cards");
}

std::string counts_text(const PlanAnswer& answer) {
  std::string text = fmt::format("{} combinations: {} fit, {} run out of memory",
                                 answer.combinations, answer.fitting, answer.out_of_memory);
  if (answer.slower > 0) {
    text += fmt::format(", {} cannot be among these whatever they take", answer.slower);
  }
  if (answer.not_modelled > 0) {
    text +=
        fmt::format(", {} are not modelled ({})", answer.not_modelled, answer.not_modelled_because);
  }
  return text + "\n";
}

std::string text_of(const PlanAnswer& answer) {
  const PlanQuestion& question = answer.question;
  Run run = question.run;
  run.alloc_conf.clear();
  run.spec.parallel = Parallel::none;  // each row says its own
  std::string text =
      run_text(run, {.shapes = fmt::format("{} x {} in all a step", question.global_batch,
                                           run.spec.shapes.front().seq)});
  text += folded("on " + worlds_text(question.axes.worlds) + "\n") + "\n";
  if (!answer.fits()) {
    text += "NOTHING FITS: no way to spread this run has room\n";
  } else {
    text += table_text(answer);
  }
  text += "\n" + folded(counts_text(answer));
  return text + folded(std::string{kNotSearched} + "\n");
}

}  // namespace

const Writers<PlanAnswer>& plan_writers() {
  static constexpr Writers<PlanAnswer> kWriters{.json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
