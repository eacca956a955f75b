#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/fit_answer.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

Table trials_table(const FitAnswer& answer, bool in_bytes) {
  Table table{{{"value"},
               {"fits", Table::Align::left},
               {in_bytes ? "peak_reserved_bytes" : "peak reserved"}}};
  for (const auto& [value, trial] : answer.trials) {
    table.add_row(
        {std::to_string(value), trial.fits ? "yes" : "no",
         in_bytes ? std::to_string(trial.peak_reserved.count()) : size_text(trial.peak_reserved)});
  }
  return table;
}

Json number_or_null(const std::optional<std::int64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

void write_json(const FitAnswer& answer, Json& json) {
  const Vary vary = answer.question.vary;
  json["vary"] = to_string(vary);
  json["largest_fit"] = number_or_null(answer.largest_fit);
  if (vary == Vary::world) {
    json["smallest_fit"] = number_or_null(answer.smallest_fit);
  }
  json["first_oom"] = number_or_null(answer.first_oom);
  json["first_oom_at"] = oom_json(answer.failing() ? answer.failing()->oom : std::nullopt);
  Json rows = Json::array();
  for (const auto& [value, trial] : answer.trials) {
    rows.push_back({{"value", value},
                    {"fits", trial.fits},
                    {"peak_reserved_bytes", trial.peak_reserved.count()}});
  }
  json["trials"] = std::move(rows);
}

std::string csv_of(const FitAnswer& answer) { return trials_table(answer, true).csv(); }

std::string text_of(const FitAnswer& answer) {
  const FitQuestion& question = answer.question;
  const std::string_view varied = to_string(question.vary);
  std::string text = run_text(question.run) + "\n";
  if (!answer.largest_fit) {
    text += fmt::format("NOTHING FITS: no {} up to {}\n", varied,
                        question.max / question.step * question.step);
  } else if (question.vary == Vary::world) {
    text += fmt::format("FITS from world {} on\n", *answer.smallest_fit);
  } else {
    text += fmt::format("FITS up to {} {}{}\n", varied, *answer.largest_fit,
                        answer.first_oom ? "" : " (--max): there may be room for more");
  }
  if (answer.failing() != nullptr) {
    const OomAnswer& oom = *answer.failing()->oom;
    text += fmt::format("{} {} runs out of memory {}: {}\n", varied, *answer.first_oom,
                        oom_place(oom), oom.message);
  }
  return text + "\n" + trials_table(answer, false).text();
}

}  // namespace

const Writers<FitAnswer>& fit_writers() {
  static constexpr Writers<FitAnswer> kWriters{.json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
