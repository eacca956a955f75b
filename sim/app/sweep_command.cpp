#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/foreign_run.hpp"
#include "sim/app/host.hpp"
#include "sim/app/parallel.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/app/sweep_grid.hpp"
#include "sim/app/sweep_output.hpp"
#include "sim/app/sweep_rows.hpp"

namespace peakcast::app {

namespace {

struct Asked {
  SweepGrid grid{};
  std::string file{};  ///< --resume
  std::size_t threads{};
};

/// The rows one by one, in the order of the grid; returns the first error and how many there are.
std::pair<std::size_t, std::string> write_rows(const Asked& asked, Format format,
                                               Progress& progress) {
  const SweepRows rows{asked.grid, format};
  const std::size_t count = asked.grid.size();
  const SweepOutput output{rows, count, asked.file};
  const std::size_t first = output.done();
  std::vector<std::optional<SweepPoint>> points(count - first);
  std::size_t errors = output.errors();
  std::string first_error = output.first_error();
  // Rows are written as they come, whole and in order: what was found stays found.
  std::mutex writing;
  std::size_t written = 0;
  std::size_t finished = first;
  run_jobs(points.size(), asked.threads, [&](std::size_t i) {
    SweepPoint point = sweep_point(asked.grid, first + i);
    const std::lock_guard lock{writing};
    points[i] = std::move(point);
    for (; written < points.size() && points[written]; ++written) {
      output.write(rows.row(first + written, *points[written]));
      if (const std::string& error = points[written]->error; !error.empty()) {
        first_error = errors++ == 0 ? error : first_error;
      }
    }
    progress.advance_to(++finished, count);
  });
  return {errors, first_error};
}

/// All at once, for people.
std::pair<std::size_t, std::string> write_table(const Asked& asked, Progress& progress) {
  std::vector<SweepPoint> points(asked.grid.size());
  std::mutex counting;
  std::size_t done = 0;
  run_jobs(points.size(), asked.threads, [&](std::size_t i) {
    points[i] = sweep_point(asked.grid, i);
    const std::lock_guard lock{counting};
    progress.advance_to(++done, points.size());
  });
  write_stdout(coloured(sweep_text(asked.grid, points)));
  const auto wrong = [](const SweepPoint& point) { return !point.error.empty(); };
  const auto errors = std::count_if(points.begin(), points.end(), wrong);
  const auto first = std::find_if(points.begin(), points.end(), wrong);
  return {static_cast<std::size_t>(errors), first == points.end() ? "" : first->error};
}

int write_points(const Asked& asked, const Console& console, Format format, bool table) {
  std::pair<std::size_t, std::string> errors;
  {
    Progress progress{console, "points"};
    errors = table ? write_table(asked, progress) : write_rows(asked, format, progress);
  }
  if (errors.first > 0) {
    throw Fault{fmt::format("{} of {} points have no answer; the first: {}", errors.first,
                            asked.grid.size(), errors.second)};
  }
  return kFits;
}

}  // namespace

int run_sweep(std::span<const std::string> words) {
  std::vector<std::string> files;
  Asked asked;
  std::int64_t jobs = 0;
  CommandLine line{
      {"sweep",
       "predict for every point of a grid. The grid: flags with several values (8,16,32; 128..512 "
       "doubles; 8..24:8 steps; --gpu all), or a file with {\"run\": {FLAG: VALUE}, \"grid\": "
       "{FLAG: [VALUES]}}; the last flag varies fastest. CSV, JSON lines with --format json, a "
       "table "
       "with --format text or on a terminal",
       "sweep --model bert-large --batch 8,16,32 --seq 128..512 --gpu all"}};
  line.positionals("SPEC", files, "the grid's file, instead of run flags; - is stdin");
  line.number("jobs", jobs, "threads; 0: one a core", 0, 1024);
  line.text("resume", "FILE", asked.file,
            "write the rows to FILE, and go on where it ends if it is there");
  CommandLine point{{"sweep", "one point of a sweep", "predict"}};
  const RunFlags flags{point};
  const EngineFlags engine{point};
  Margin margin;
  declare_margin(point, margin);
  GivenFlags given;
  line.take_flags(point, [&](const std::string& flag, const std::string& word) {
    given.emplace_back(flag, word);
  });
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  if (files.size() > 1 || files.empty() == given.empty()) {
    throw Fault{files.empty()      ? "sweep needs a grid: flags (--model ...) or a file"
                : files.size() > 1 ? "sweep takes one file"
                                   : "a grid's file and run flags exclude one another"};
  }
  asked.threads = static_cast<std::size_t>(jobs);
  asked.grid = files.empty() ? SweepGrid::from_flags(given) : SweepGrid::from_file(files.front());
  Console console = line.console();
  const bool on_terminal = ::isatty(STDOUT_FILENO) == 1;
  const bool table =
      console.format == Format::text && asked.file.empty() && (line.given("format") || on_terminal);
  const Format format = console.format == Format::json ? Format::json : Format::csv;
  // A bar among rows on the same terminal would spoil both.
  console.quiet = console.quiet || (on_terminal && !table && asked.file.empty());
  const auto run = [&] { return write_points(asked, console, format, table); };
  if (files.empty() || !asked.grid.names_plugin()) {  // of flags the program itself sees it
    return run();
  }
  if (host_capture() != nullptr) {
    throw NeedsProcess{};
  }
  return supervised(run, true);
}

}  // namespace peakcast::app
