#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/cards.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

/// Of the last iteration, of a run that reaches it.
std::optional<SimDuration> step_of(const PredictAnswer& card) {
  return card.fits() && card.finished_iterations() > 0
             ? std::optional{card.prediction.report.iterations.back().duration}
             : std::nullopt;
}

std::string ms_text(SimDuration time) {
  constexpr double kMillisecond = 1e6;
  return fmt::format("{:.1f} ms", static_cast<double>(time.count()) / kMillisecond);
}

std::string verdict_words(Verdict verdict) {
  return verdict == Verdict::out_of_memory ? "out of memory" : std::string{to_string(verdict)};
}

/// The first is the smallest.
const PredictAnswer* smallest_fit(const PredictCards& found) {
  const auto at = std::find_if(found.cards.begin(), found.cards.end(),
                               [](const PredictAnswer& card) { return card.fits(); });
  return at == found.cards.end() ? nullptr : &*at;
}

/// Ties go to the smaller one.
const PredictAnswer* fastest(const PredictCards& found) {
  const PredictAnswer* best = nullptr;
  for (const PredictAnswer& card : found.cards) {
    if (card.fits() && (best == nullptr || step_of(card) < step_of(*best))) {
      best = &card;
    }
  }
  return best;
}

Json name_or_null(const PredictAnswer* card) {
  return card != nullptr ? Json(card->run.gpu.name) : Json(nullptr);
}

void write_predict_json(const PredictCards& found, Json& json) {
  json["engine"] = "native";
  json["smallest_fit"] = name_or_null(smallest_fit(found));
  json["fastest"] = name_or_null(fastest(found));
  json["cards"] = Json::array();
  for (const PredictAnswer& card : found.cards) {
    Json row = Json::object();
    predict_writers().json(card, row);
    const auto step = step_of(card);
    row["step_ns"] = step ? Json(step->count()) : Json(nullptr);
    json["cards"].push_back(std::move(row));
  }
}

std::string predict_csv(const PredictCards& found) {
  Table table{{{"gpu"},
               {"total_bytes"},
               {"verdict"},
               {"peak_allocated_bytes"},
               {"peak_reserved_bytes"},
               {"peak_device_bytes"},
               {"spare_bytes"},
               {"retries"},
               {"step_ns"}}};
  for (const PredictAnswer& card : found.cards) {
    const Statistics& statistics = card.prediction.report.statistics;
    const auto step = step_of(card);
    table.add_row({card.run.gpu.name, std::to_string(card.run.gpu.spec.total.count()),
                   std::string{to_string(card.verdict)}, std::to_string(statistics.allocated.peak),
                   std::to_string(statistics.reserved.peak),
                   std::to_string(card.prediction.peak_device().count()),
                   std::to_string(card.headroom.spare.count()),
                   std::to_string(card.headroom.retries),
                   step ? std::to_string(step->count()) : ""});
  }
  return table.csv();
}

std::string cards_words(std::size_t count) {
  return fmt::format("{} {}", count, count == 1 ? "card" : "cards");
}

std::string predict_text(const PredictCards& found) {
  Table table{{{"card", Table::Align::left},
               {"memory"},
               {"verdict", Table::Align::left},
               {"on the card"},
               {"to spare"},
               {"step"}}};
  for (const PredictAnswer& card : found.cards) {
    const auto step = step_of(card);
    table.add_row(
        {card.run.gpu.name, size_text(card.run.gpu.spec.total), verdict_words(card.verdict),
         card.fits() ? size_text(card.prediction.peak_device()) : "-",
         card.fits() ? size_text(card.headroom.spare) : "-", step ? ms_text(*step) : "-"});
  }
  std::string text = run_text(found.cards.front().run, {.cards = cards_words(found.cards.size())}) +
                     "\n" + table.text() + "\n";
  const PredictAnswer* const smallest = smallest_fit(found);
  if (smallest == nullptr) {
    return text + "NOTHING FITS: no card has the memory\n";
  }
  text += fmt::format("{} on {}, the smallest; the fastest is {}\n", in_capitals(smallest->verdict),
                      smallest->run.gpu.name, fastest(found)->run.gpu.name);
  for (const std::string& reason : reasons(smallest->headroom)) {
    text += folded("  " + reason + "\n", "  ");
  }
  return text;
}

void write_fit_json(const FitCards& found, Json& json) {
  json["cards"] = Json::array();
  for (const FitAnswer& card : found.cards) {
    Json row = Json::object();
    row["gpu"] = {{"name", card.question.run.gpu.name},
                  {"card", card.question.run.gpu.spec.name},
                  {"total_bytes", card.question.run.gpu.spec.total.count()}};
    fit_writers().json(card, row);
    json["cards"].push_back(std::move(row));
  }
}

/// The trial at the limit; null when nothing fits.
const Trial* last_fit(const FitAnswer& card) {
  return card.limit ? &card.trials.at(*card.limit) : nullptr;
}

std::string fit_csv(const FitCards& found) {
  Table table{{{"gpu"},
               {"total_bytes"},
               {"vary"},
               {"largest_fit"},
               {"smallest_fit"},
               {"first_oom"},
               {"verdict"},
               {"peak_reserved_bytes"},
               {"spare_bytes"}}};
  const auto cell = [](const std::optional<std::int64_t>& number) {
    return number ? std::to_string(*number) : "";
  };
  for (const FitAnswer& card : found.cards) {
    const Trial* const trial = last_fit(card);
    const bool down = card.question.vary == Vary::world;
    table.add_row(
        {card.question.run.gpu.name, std::to_string(card.question.run.gpu.spec.total.count()),
         std::string{to_string(card.question.vary)}, cell(card.largest_fit()),
         down ? cell(card.limit) : "", cell(card.first_oom),
         std::string{to_string(trial != nullptr ? trial->verdict : Verdict::out_of_memory)},
         trial != nullptr ? std::to_string(trial->peak_reserved.count()) : "",
         trial != nullptr ? std::to_string(trial->headroom.spare.count()) : ""});
  }
  return table.csv();
}

std::string fit_text(const FitCards& found) {
  const FitQuestion& question = found.cards.front().question;
  const std::string varied{to_string(question.vary)};
  const bool down = question.vary == Vary::world;
  Table table{{{"card", Table::Align::left},
               {"memory"},
               {(down ? "fewest " : "largest ") + varied},
               {"first OOM"},
               {"verdict", Table::Align::left},
               {"to spare"}}};
  bool open = false;
  for (const FitAnswer& card : found.cards) {
    const Trial* const trial = last_fit(card);
    open = open || !card.first_oom;
    table.add_row({card.question.run.gpu.name, size_text(card.question.run.gpu.spec.total),
                   card.limit ? std::to_string(*card.limit) : "none",
                   card.first_oom ? std::to_string(*card.first_oom) : "-",
                   verdict_words(trial != nullptr ? trial->verdict : Verdict::out_of_memory),
                   trial != nullptr ? size_text(trial->headroom.spare) : "-"});
  }
  VariedWords words = varied_words(question);
  words.cards = cards_words(found.cards.size());
  std::string text = run_text(question.run, words) + "\n" + table.text() + "\n";
  if (!found.any_fits()) {
    text += fmt::format("NOTHING FITS: no {} on any card\n", varied);
  }
  if (open) {
    text += down ? "without a first OOM: fewer ranks than one there are none\n"
                 : "without a first OOM: --max fits, there may be room for more\n";
  }
  return text;
}

}  // namespace

const Writers<PredictCards>& predict_cards_writers() {
  static constexpr Writers<PredictCards> kWriters{
      .json = write_predict_json, .csv = predict_csv, .text = predict_text};
  return kWriters;
}

const Writers<FitCards>& fit_cards_writers() {
  static constexpr Writers<FitCards> kWriters{
      .json = write_fit_json, .csv = fit_csv, .text = fit_text};
  return kWriters;
}

}  // namespace peakcast::app
