#include "sim/app/verdict.hpp"

#include <algorithm>
#include <charconv>
#include <memory>

#include <fmt/format.h>

#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {

std::string_view to_string(Verdict verdict) {
  return verdict == Verdict::fits ? "fits" : verdict == Verdict::tight ? "tight" : "out_of_memory";
}

std::string_view in_capitals(Verdict verdict) {
  return verdict == Verdict::fits ? "FITS" : verdict == Verdict::tight ? "TIGHT" : "OUT OF MEMORY";
}

Bytes Margin::of(Bytes total) const {
  constexpr std::int64_t kHundred = 100;
  return size.value_or(Bytes{total.count() / kHundred * percent});
}

void declare_margin(CommandLine& line, Margin& margin) {
  auto given = std::make_shared<std::string>();
  line.value(
      "margin", "SIZE|PERCENT", "",
      [&margin, given](const std::string& word) -> Expected<Ok> {
        if (word.ends_with('%')) {
          const char* const end = word.data() + word.size() - 1;
          const auto [stopped, error] = std::from_chars(word.data(), end, margin.percent);
          constexpr std::int64_t kMost = 99;
          if (error != std::errc{} || stopped != end || margin.percent < 0 ||
              margin.percent > kMost) {
            return invalid_input(fmt::format("'{}' is not a whole percentage, as in 5%", word));
          }
        } else {
          const auto size = parse_size(word);
          if (!size) {
            return size.error();
          }
          margin.size = *size;
        }
        *given = word;
        return Ok{};
      },
      [given] { return given->empty() ? Json(nullptr) : Json(*given); },
      "what must stay free of the card or the limit; with less the verdict is 'tight'");
}

Headroom headroom(const Run& run, const Prediction& prediction, const Evidence& evidence,
                  const Margin& margin) {
  const Bytes total = run.gpu.spec.total;
  if (prediction.report.oom) {
    return {.wanted = margin.of(total)};
  }
  const Bytes reserved{prediction.report.statistics.reserved.peak};
  Headroom room{.spare = total - prediction.peak_device(),
                .wanted = margin.of(run.limit ? std::min(*run.limit, total) : total),
                .expected_error = evidence.expected_error(reserved),
                .retries = prediction.report.statistics.num_alloc_retries};
  for (const OutsideItem& item : prediction.outside) {
    room.unmeasured += item.measured ? Bytes{} : item.size;
  }
  if (total <= run.gpu.total_most) {  // the card's own, which depends on its driver
    room.unmeasured += std::max(Bytes{}, total - run.gpu.total_least);
  }
  // What lies outside the allocator does not count against its own limit.
  if (run.limit && *run.limit - reserved < room.spare) {
    room.spare = *run.limit - reserved;
    room.unmeasured = Bytes{};
  }
  return room;
}

Verdict verdict(const Prediction& prediction, const Headroom& headroom) {
  return prediction.report.oom       ? Verdict::out_of_memory
         : reasons(headroom).empty() ? Verdict::fits
                                     : Verdict::tight;
}

std::vector<std::string> reasons(const Headroom& headroom) {
  std::vector<std::string> found;
  if (headroom.retries > 0) {
    found.push_back(
        fmt::format("{} {} of the allocator: it empties its cache, waits for the card "
                    "and asks again",
                    count_text(headroom.retries), headroom.retries == 1 ? "retry" : "retries"));
  }
  if (headroom.spare < headroom.wanted) {
    found.push_back(fmt::format("less than --margin, {}", size_text(headroom.wanted)));
  }
  const Bytes unknown = headroom.unmeasured + headroom.expected_error;
  if (headroom.spare < unknown) {
    found.push_back(
        fmt::format("less than what is not known: {} not measured on this card, {} "
                    "error of like runs",
                    size_text(headroom.unmeasured), size_text(headroom.expected_error)));
  }
  return found;
}

Json headroom_json(const Headroom& headroom) {
  return {{"spare_bytes", headroom.spare.count()},
          {"wanted_bytes", headroom.wanted.count()},
          {"unmeasured_bytes", headroom.unmeasured.count()},
          {"expected_error_bytes", headroom.expected_error.count()},
          {"retries", headroom.retries},
          {"tight_because", reasons(headroom)}};
}

}  // namespace peakcast::app
