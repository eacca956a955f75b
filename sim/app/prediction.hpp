#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/app/run_flags.hpp"
#include "sim/core/units.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/engine/replay.hpp"
#include "sim/engine/waste.hpp"
#include "sim/report/timeline.hpp"
#include "workloads/generate.hpp"

namespace peakcast::app {

enum class Time : bool {
  none,       ///< nothing takes time, unless there are several streams or the policy needs it
  simulated,  ///< streams, kernels and calls take the card's time
};

/// The program that `run` is, with what its kernels take on the card when time is simulated. Throws
/// Fault when it cannot be made.
[[nodiscard]] Program program_of(const Run& run, Time time);
/// The same with simulated time by `costs`, which may watch what `run`'s own costs answer.
[[nodiscard]] Program program_of(const Run& run, const torch::CostModel& costs);

[[nodiscard]] Bytes sum_of(const std::vector<OutsideItem>& items);

struct Prediction {
  ReplayReport report{};
  std::vector<OutsideItem> outside{};
  Bytes outside_sum{};
  /// Peak reserved plus outside.
  [[nodiscard]] Bytes peak_device() const;
};

/// Runs `program`, which is `run`'s, on `run`'s card under its policy until the end or the
/// first out-of-memory. Throws Fault when the policy cannot be made. `Time::none` is taken as
/// `simulated` for programs with several streams, where what is reusable depends on time.
/// `timeline` (may be null; simulated time only) gets what ran when; `watch` (may be empty) goes
/// around the policy; `observer` (may be null) hears of the replay.
[[nodiscard]] Prediction predict(const Run& run, const Program& program, Time time,
                                 TimelineWriter* timeline = nullptr, const PolicyWatch& watch = {},
                                 ReplayObserver* observer = nullptr);

/// The most that the pytorch policy simulates.
inline constexpr Bytes kLargestCard{std::int64_t{1} << 40};

/// How a run's text names what varies: "1..256 x 512" and "8"; "" = as the run has it.
struct VariedWords {
  std::string shapes{};
  std::string ranks{};
  std::string cards{};  ///< in place of the card and its memory
};
/// The run in three lines, for people: "bert-large (mlm, 335.2 M parameters), bf16-amp, ...".
[[nodiscard]] std::string run_text(const Run& run, const VariedWords& varied = {});
/// "16 x 512", or the list of --batches.
[[nodiscard]] std::string shapes_text(const RunSpec& spec);

}  // namespace peakcast::app
