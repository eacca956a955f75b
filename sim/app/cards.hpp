#pragma once

#include <string>
#include <vector>

#include "sim/app/fit_answer.hpp"
#include "sim/app/predict_answer.hpp"

namespace peakcast::app {

/// What --gpu names: "all" the built-in cards, "h100-80g,a100-40g" these, and anything else one
/// card. Not empty; whether there are such cards is not looked at. Throws Fault: an empty name, one
/// that stands twice.
[[nodiscard]] std::vector<std::string> card_names(const std::string& gpu);

/// Several cards get the same question; the card with the least memory first.
struct PredictCards {
  std::vector<PredictAnswer> cards{};  ///< without advice
  [[nodiscard]] bool any_fits() const;
};
struct FitCards {
  std::vector<FitAnswer> cards{};
  [[nodiscard]] bool any_fits() const;
};

/// `runs` are RunFlags::runs(). Throws what the answer for one card throws.
[[nodiscard]] PredictCards predict_on_cards(const std::vector<Run>& runs, const Margin& margin);
/// `question` with each of `runs` in place of its own. `on_trial` hears of each card's trials anew.
[[nodiscard]] FitCards fit_on_cards(const std::vector<Run>& runs, const FitQuestion& question,
                                    const OnTrial& on_trial);

/// JSON: `cards` holds what the answer for one card holds, with `step_ns`; then the smallest that
/// fits and the fastest.
[[nodiscard]] const Writers<PredictCards>& predict_cards_writers();
[[nodiscard]] const Writers<FitCards>& fit_cards_writers();

}  // namespace peakcast::app
