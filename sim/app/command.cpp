#include "sim/app/command.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "sim/app/console.hpp"
#include "sim/app/glossary.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/version.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {

namespace {
constexpr std::array kCommands{
    Command{"predict", "Whether a training run fits on a card, and what takes the memory",
            run_predict},
    Command{"fit", "The largest batch or sequence, or the fewest ranks, that fit", run_fit},
    Command{"plan", "How many cards, and how to spread a run over them", run_plan},
    Command{"capture", "What any PyTorch program takes on a card, run without one", run_capture},
    Command{"sweep", "predict for every point of a grid", run_sweep},
    Command{"replay", "Run a trace through an allocator policy", run_replay},
    Command{"policies", "The allocator policies that are known", run_policies},
    Command{"compare", "A trace or a run under several policies, beside the best packing",
            run_compare},
    Command{"explain", "Why reserved memory serves nobody, and who holds it", run_explain},
    Command{"trace", "Look into, check, convert and compare traces", run_trace},
    Command{"models", "The built-in models", run_models},
    Command{"gpus", "The known cards", run_gpus},
    Command{"schema", "What a command prints as JSON and CSV, name by name", run_schema},
    Command{"completion", "Completion for a shell, or the manual page", run_completion},
};
}  // namespace

std::span<const Command> commands() { return kCommands; }

int dispatch(std::string_view path, std::string_view summary, std::span<const Command> table,
             std::span<const std::string> words) {
  if (words.size() > 1 && words.front() == "help") {
    std::vector<std::string> asked_of(words.begin() + 1, words.end());
    asked_of.emplace_back("--help");
    return dispatch(path, summary, table, asked_of);
  }
  const bool asked = !words.empty() && (words.front() == "--help" || words.front() == "-h" ||
                                        words.front() == "help");
  if (words.empty() || asked) {
    std::size_t width = 0;
    for (const Command& command : table) {
      width = std::max(width, command.name.size());
    }
    std::string text = fmt::format("{}\n\nusage: {} COMMAND [FLAGS]\n\n", folded(summary), path);
    for (const Command& command : table) {
      const std::string indent(width + 4, ' ');
      text += folded(fmt::format("  {:<{}}  {}\n", command.name, width, command.summary), indent);
    }
    text += fmt::format("\n'{} COMMAND --help' tells more.\n", path);
    if (table.data() == kCommands.data()) {
      text += "\n" + std::string{kGlossary};
    }
    if (!asked) {
      write_stderr(text);
      return kBadInput;
    }
    write_stdout(text);
    return kFits;
  }
  if (words.front() == "--version" || words.front() == "-V") {
    write_stdout(fmt::format("peakcast {}\n", version()));
    return kFits;
  }
  for (const Command& command : table) {
    if (command.name == words.front()) {
      return command.run(words.subspan(1));
    }
  }
  std::vector<std::string_view> names;
  for (const Command& command : table) {
    names.push_back(command.name);
  }
  const std::string_view what = words.front().starts_with("-") ? "flag" : "command";
  throw Fault{fmt::format("{} ('{} --help' lists the commands)",
                          unknown_word(what, words.front(), names), path)};
}

}  // namespace peakcast::app
