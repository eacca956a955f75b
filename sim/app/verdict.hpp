#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/app/command_line.hpp"
#include "sim/app/evidence.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/units.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

enum class Verdict : std::uint8_t {
  fits,
  tight,  ///< it fits by retries, or by less than what is not known or wanted
  out_of_memory,
};
[[nodiscard]] std::string_view to_string(Verdict verdict);  ///< as in JSON
[[nodiscard]] std::string_view in_capitals(Verdict verdict);

/// What must stay free: a size, or a share of the card.
struct Margin {
  std::optional<Bytes> size{};
  std::int64_t percent{};
  [[nodiscard]] Bytes of(Bytes total) const;
};
/// Declares --margin.
void declare_margin(CommandLine& line, Margin& margin);

/// How far a run that fits is from one that does not. All zero for one that does not.
struct Headroom {
  Bytes spare{};           ///< of the card or of --limit, whichever is less
  Bytes wanted{};          ///< --margin
  Bytes unmeasured{};      ///< outside the allocator, known from another card only
  Bytes expected_error{};  ///< of the reserved peak, by Evidence
  std::int64_t retries{};  ///< the cache was emptied and the device asked again
};

[[nodiscard]] Headroom headroom(const Run& run, const Prediction& prediction,
                                const Evidence& evidence, const Margin& margin);
[[nodiscard]] Verdict verdict(const Prediction& prediction, const Headroom& headroom);
/// Why it is tight, a clause each; empty when it is not.
[[nodiscard]] std::vector<std::string> reasons(const Headroom& headroom);
[[nodiscard]] Json headroom_json(const Headroom& headroom);

}  // namespace peakcast::app
