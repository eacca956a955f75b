#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/fit_answer.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

std::string csv_of(const FitAnswer& answer) {
  Table table{{{"value"},
               {"fits", Table::Align::left},
               {"peak_reserved_bytes"},
               {"verdict"},
               {"spare_bytes"},
               {"retries"}}};
  for (const auto& [value, trial] : answer.trials) {
    table.add_row(
        {std::to_string(value), trial.fits() ? "yes" : "no",
         std::to_string(trial.peak_reserved.count()), std::string{to_string(trial.verdict)},
         std::to_string(trial.headroom.spare.count()), std::to_string(trial.headroom.retries)});
  }
  return table.csv();
}

Json number_or_null(const std::optional<std::int64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

void write_json(const FitAnswer& answer, Json& json) {
  const Vary vary = answer.question.vary;
  json["engine"] = "native";
  json["vary"] = to_string(vary);
  json["largest_fit"] = number_or_null(answer.largest_fit());
  if (vary == Vary::world) {
    json["smallest_fit"] = number_or_null(answer.limit);
  }
  json["first_oom"] = number_or_null(answer.first_oom);
  json["first_oom_at"] = oom_json(answer.failing() ? answer.failing()->oom : std::nullopt);
  json["islands"] = Json::array();
  for (const FitAnswer::Range& island : answer.islands) {
    json["islands"].push_back({{"from", island.from}, {"to", island.to}});
  }
  json["hopeless"] = number_or_null(answer.hopeless);
  json["every_step_tried"] = !answer.bisected;
  Json rows = Json::array();
  for (const auto& [value, trial] : answer.trials) {
    rows.push_back({{"value", value},
                    {"fits", trial.fits()},
                    {"verdict", to_string(trial.verdict)},
                    {"peak_reserved_bytes", trial.peak_reserved.count()},
                    {"spare_bytes", trial.headroom.spare.count()},
                    {"retries", trial.headroom.retries}});
  }
  json["trials"] = std::move(rows);
}

/// Trials beside which the verdict changes, and their neighbours: the rest says nothing new.
std::set<std::int64_t> telling(const FitAnswer& answer) {
  constexpr std::ptrdiff_t kBeside = 2;
  std::set<std::int64_t> values;
  const auto begin = answer.trials.begin();
  const auto end = answer.trials.end();
  const auto add_around = [&](auto at) {
    auto from = at;
    for (std::ptrdiff_t i = 0; i < kBeside && from != begin; ++i) {
      --from;
    }
    auto to = at;
    for (std::ptrdiff_t i = 0; i < kBeside && to != end; ++i) {
      ++to;
    }
    for (; from != to; ++from) {
      values.insert(from->first);
    }
  };
  for (auto at = begin; at != end; ++at) {
    const auto next = std::next(at);
    if (at == begin || next == end) {
      values.insert(at->first);
    } else if (at->second.verdict != next->second.verdict) {
      add_around(next);
    }
  }
  return values;
}

std::string trials_text(const FitAnswer& answer) {
  Table table{{{std::string{to_string(answer.question.vary)}},
               {"verdict", Table::Align::left},
               {"peak reserved"},
               {"to spare"},
               {"retries"}}};
  const std::set<std::int64_t> shown = telling(answer);
  for (const auto& [value, trial] : answer.trials) {
    if (!answer.bisected && !shown.contains(value)) {
      continue;
    }
    table.add_row({std::to_string(value),
                   trial.fits() ? std::string{to_string(trial.verdict)} : "out of memory",
                   size_text(trial.peak_reserved),
                   trial.fits() ? size_text(trial.headroom.spare) : "-",
                   trial.headroom.retries > 0 ? count_text(trial.headroom.retries) : "-"});
  }
  return table.text();
}

/// How the limit was found.
std::string method_text(const FitAnswer& answer) {
  const std::string_view varied = to_string(answer.question.vary);
  std::string text = answer.bisected
                         ? fmt::format("found by bisection: not every {} was tried", varied)
                         : fmt::format("{} {} tried, in steps of {}", answer.trials.size(),
                                       answer.trials.size() == 1 ? "value was" : "values were",
                                       answer.question.step);
  if (answer.hopeless) {
    text += fmt::format("; from {} {} {} more is live at once than there is", varied,
                        *answer.hopeless, answer.question.vary == Vary::world ? "down" : "on");
  }
  return text + "\n";
}

std::string text_of(const FitAnswer& answer) {
  const FitQuestion& question = answer.question;
  const std::string_view varied = to_string(question.vary);
  std::string text = run_text(question.run, varied_words(question)) + "\n";
  if (!answer.limit) {
    text += fmt::format("NOTHING FITS: no {} up to {}\n", varied, question.count() * question.step);
  } else if (question.vary == Vary::world) {
    text += fmt::format("FITS from world {} on\n", *answer.limit);
  } else {
    text += fmt::format("FITS up to {} {}{}\n", varied, *answer.limit,
                        answer.first_oom ? "" : " (--max): there may be room for more");
  }
  // The easy side of the tight ones, where there are any before the limit.
  if (answer.limit && answer.trials.at(*answer.limit).verdict == Verdict::tight) {
    std::int64_t last = *answer.limit;
    const bool down = question.vary != Vary::world;
    for (auto at = answer.trials.find(last);
         at != answer.trials.end() && at->second.verdict == Verdict::tight;) {
      last = at->first;
      if (down && at == answer.trials.begin()) {
        break;
      }
      down ? --at : ++at;
    }
    text += folded(fmt::format("TIGHT from {} {} on: {}\n", varied, last,
                               reasons(answer.trials.at(*answer.limit).headroom).front()));
  }
  if (answer.failing() != nullptr) {
    const OomAnswer& oom = *answer.failing()->oom;
    const std::string note = oom_note(oom, answer.question.run.spec);
    text += folded(fmt::format("{} {} runs out of memory {}:\n{}\n{}", varied, *answer.first_oom,
                               oom_place(oom), oom.message, note.empty() ? "" : note + "\n"));
  }
  for (const FitAnswer::Range& island : answer.islands) {
    text += fmt::format("beyond that, {} {} fits again\n", varied,
                        island.from == island.to ? std::to_string(island.from)
                                                 : fmt::format("{}..{}", island.from, island.to));
  }
  return text + folded(method_text(answer)) + "\n" + trials_text(answer);
}

}  // namespace

VariedWords varied_words(const FitQuestion& question) {
  const std::string range = fmt::format("{}..{}", question.step, question.count() * question.step);
  const BatchShape& shape = question.run.spec.shapes.front();
  switch (question.vary) {
    case Vary::batch:
      return {.shapes = fmt::format("{} x {}", range, shape.seq)};
    case Vary::seq:
      return {.shapes = fmt::format("{} x {}", shape.batch, range)};
    case Vary::world:
      break;
  }
  return {.ranks = range};
}

const Writers<FitAnswer>& fit_writers() {
  static constexpr Writers<FitAnswer> kWriters{.json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
