#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/prediction.hpp"
#include "sim/app/replay_json.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "workloads/family.hpp"

namespace peakcast::app {

int run_fit(std::span<const std::string> words);

namespace {

enum class Vary : std::uint8_t { batch, seq, world };
constexpr std::array<std::pair<std::string_view, Vary>, 3> kVaries{
    {{"batch", Vary::batch}, {"seq", Vary::seq}, {"world", Vary::world}}};

struct Trial {  // NOLINT(bugprone-exception-escape): a null Json does not throw
  bool fits{};
  Bytes peak_reserved{};
  Json oom{};
  std::string oom_text{};
};

/// Runs trials and remembers them; values ascend.
class Search {
 public:
  Search(const Run& run, Vary vary, const Console& console)
      : run_{run}, vary_{vary}, console_{console} {}

  const Trial& at(std::int64_t value) {
    const auto known = trials_.find(value);
    if (known != trials_.end()) {
      return known->second;
    }
    Run run = run_;
    for (BatchShape& shape : run.spec.shapes) {
      (vary_ == Vary::batch ? shape.batch
       : vary_ == Vary::seq ? shape.seq
                            : run.spec.world) = value;
    }
    check_shapes(run);
    const Trace trace = program_of(run, Time::none);
    const Prediction prediction = predict(run, trace, Time::none);
    Trial trial;
    trial.fits = !prediction.report.oom;
    trial.peak_reserved = Bytes{prediction.report.statistics.reserved.peak};
    trial.oom = oom_json(prediction.report, trace, run.gpu.spec, run.limit);
    if (!trial.fits) {
      const OomReport& oom = *prediction.report.oom;
      trial.oom_text = fmt::format(
          "{}{}{}: {}",
          oom.iteration < 0 ? "before the first iteration"
                            : fmt::format("in iteration {}", oom.iteration),
          oom.phase.empty() ? "" : ", phase " + oom.phase, oom.op.empty() ? "" : ", at " + oom.op,
          oom_message(oom.out_of_memory, run.gpu.spec, run.limit));
    }
    console_.detail(fmt::format("{}: {}, reserved {}", value, trial.fits ? "fits" : "out of memory",
                                size_text(trial.peak_reserved)));
    return trials_.emplace(value, std::move(trial)).first->second;
  }

  [[nodiscard]] const std::map<std::int64_t, Trial>& trials() const { return trials_; }

 private:
  const Run& run_;
  Vary vary_;
  const Console& console_;
  std::map<std::int64_t, Trial> trials_{};
};

struct Found {
  std::optional<std::int64_t> largest_fit{};
  std::optional<std::int64_t> first_oom{};
  std::optional<std::int64_t> smallest_fit{};  ///< world only: the fewest ranks
};

/// Bisects between a side that fits and a side that does not, both exclusive; as the recorded
/// searches do. Between values it takes for granted that more of the varied quantity needs more
/// memory (fewer ranks do).
Found search(Search& trials, Vary vary, std::int64_t step, std::int64_t max) {
  const std::int64_t count = max / step;
  const bool fits_above = vary == Vary::world;
  std::int64_t low = 0;
  std::int64_t high = count + 1;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    const bool fits = trials.at(middle * step).fits;
    (fits != fits_above ? low : high) = middle;
  }
  Found found;
  if (fits_above) {
    if (low > 0) {
      found.first_oom = low * step;
    }
    if (high <= count) {
      found.smallest_fit = high * step;
      found.largest_fit = count * step;
    }
  } else {
    if (low > 0) {
      found.largest_fit = low * step;
    }
    if (high <= count) {
      found.first_oom = high * step;
    }
  }
  return found;
}

Json number_or_null(const std::optional<std::int64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

Table trials_table(const Search& trials, bool in_bytes) {
  Table table{{{"value"},
               {"fits", Table::Align::left},
               {in_bytes ? "peak_reserved_bytes" : "peak reserved"}}};
  for (const auto& [value, trial] : trials.trials()) {
    table.add_row(
        {std::to_string(value), trial.fits ? "yes" : "no",
         in_bytes ? std::to_string(trial.peak_reserved.count()) : size_text(trial.peak_reserved)});
  }
  return table;
}

}  // namespace

int run_fit(std::span<const std::string> words) {
  CommandLine line{{"fit", "The largest batch or sequence, or the fewest ranks, that fit on a card",
                    "fit --model bert-large --seq 512 --precision bf16-amp --gpu a100-40g --vary "
                    "batch --max 256"}};
  Vary vary{};
  std::int64_t max = 256;
  std::int64_t step = 1;
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  line.choice<Vary>("vary", kVaries, vary, "what is searched");
  line.number("max", max, "the largest value to try", 1, kMost);
  line.number("step", step, "only multiples of this are tried", 1, kMost);
  RunFlags flags{line};
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (step > max) {
    throw Fault{fmt::format("--step {} is above --max {}", step, max)};
  }
  const std::string_view varied = vary == Vary::batch ? "batch"
                                  : vary == Vary::seq ? "seq"
                                                      : "world";
  if (line.given(varied)) {
    line.console().note(
        fmt::format("--{} is what --vary {} tries: its value is not used", varied, varied));
  }
  if (line.given("batches") && vary != Vary::world) {
    throw Fault{fmt::format("--batches and --vary {}: give one of them", varied)};
  }
  if (flags.policies().size() != 1) {
    throw Fault{"--policy: fit takes one policy"};
  }
  const Run run = flags.run();
  if (vary == Vary::seq && run.model.family->positions == Positions::image) {
    throw Fault{"--vary seq: an image model's sequence is its patches (--set image_size=...)"};
  }
  if (vary == Vary::world && run.spec.parallel == Parallel::none) {
    throw Fault{"--vary world needs --parallel"};
  }
  {  // The largest trial must make sense before the first one runs.
    Run largest = run;
    for (BatchShape& shape : largest.spec.shapes) {
      (vary == Vary::batch ? shape.batch
       : vary == Vary::seq ? shape.seq
                           : largest.spec.world) = max / step * step;
    }
    check_shapes(largest);
  }

  Search trials{run, vary, line.console()};
  const Found found = search(trials, vary, step, max);
  const bool any = found.largest_fit.has_value();
  const Trial* const failing = found.first_oom ? &trials.at(*found.first_oom) : nullptr;

  switch (line.console().format) {
    case Format::json: {
      Json json = report_head("fit", line.echo());
      json["vary"] = varied;
      json["largest_fit"] = number_or_null(found.largest_fit);
      if (vary == Vary::world) {
        json["smallest_fit"] = number_or_null(found.smallest_fit);
      }
      json["first_oom"] = number_or_null(found.first_oom);
      json["first_oom_at"] = failing != nullptr ? failing->oom : Json(nullptr);
      Json rows = Json::array();
      for (const auto& [value, trial] : trials.trials()) {
        rows.push_back({{"value", value},
                        {"fits", trial.fits},
                        {"peak_reserved_bytes", trial.peak_reserved.count()}});
      }
      json["trials"] = std::move(rows);
      write_stdout(json_text(json));
      break;
    }
    case Format::csv:
      write_stdout(trials_table(trials, true).csv());
      break;
    case Format::text: {
      std::string text = run_text(run) + "\n";
      if (!any) {
        text += fmt::format("NOTHING FITS: no {} up to {}\n", varied, max / step * step);
      } else if (vary == Vary::world) {
        text += fmt::format("FITS from world {} on\n", *found.smallest_fit);
      } else {
        text += fmt::format("FITS up to {} {}{}\n", varied, *found.largest_fit,
                            found.first_oom ? "" : " (--max): there may be room for more");
      }
      if (failing != nullptr) {
        text += fmt::format("{} {} runs out of memory {}\n", varied, *found.first_oom,
                            failing->oom_text);
      }
      write_stdout(text + "\n" + trials_table(trials, false).text());
      break;
    }
  }
  return any ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
