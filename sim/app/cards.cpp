#include "sim/app/cards.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/parallel.hpp"
#include "sim/core/embedded.hpp"

namespace peakcast::app {

std::vector<std::string> card_names(const std::string& gpu) {
  std::error_code error;
  if (std::filesystem::exists(gpu, error)) {  // a file, whatever its name
    return {gpu};
  }
  std::vector<std::string> names;
  if (gpu == "all") {
    for (const EmbeddedFile& file : embedded_gpus()) {
      names.emplace_back(file.name);
    }
    return names;
  }
  for (std::size_t from = 0; from <= gpu.size();) {
    const std::size_t comma = std::min(gpu.find(',', from), gpu.size());
    names.push_back(gpu.substr(from, comma - from));
    if (names.back().empty() && names.size() + (comma < gpu.size() ? 1 : 0) > 1) {
      throw Fault{fmt::format("--gpu: '{}' has an empty name", gpu)};
    }
    if (std::count(names.begin(), names.end(), names.back()) > 1) {
      throw Fault{fmt::format("--gpu: '{}' stands twice in '{}'", names.back(), gpu)};
    }
    from = comma + 1;
  }
  return names;
}

bool PredictCards::any_fits() const {
  return std::any_of(cards.begin(), cards.end(),
                     [](const PredictAnswer& card) { return card.fits(); });
}

bool FitCards::any_fits() const {
  return std::any_of(cards.begin(), cards.end(),
                     [](const FitAnswer& card) { return card.limit.has_value(); });
}

PredictCards predict_on_cards(const std::vector<Run>& runs, const Margin& margin) {
  PredictCards found;
  found.cards.resize(runs.size());
  run_jobs(runs.size(), 0, [&](std::size_t i) {
    found.cards[i] = answer(PredictQuestion{.run = runs[i], .margin = margin});
  });
  return found;
}

FitCards fit_on_cards(const std::vector<Run>& runs, const FitQuestion& question,
                      const OnTrial& on_trial) {
  FitCards found;
  for (const Run& run : runs) {  // the trials of one card run side by side
    FitQuestion on_card = question;
    on_card.run = run;
    found.cards.push_back(answer(on_card, on_trial));
  }
  return found;
}

}  // namespace peakcast::app
