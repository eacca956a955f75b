#pragma once

#include <span>
#include <string>
#include <vector>

#include "sim/app/command.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// A command as `COMMAND --help --format json` tells it.
struct ManualPage {
  std::string name{};  ///< "predict", "trace info"
  Json help{};
};

/// The commands behind `trace`.
[[nodiscard]] std::span<const Command> trace_commands();

/// Every command that has flags, in the order of the help text.
[[nodiscard]] std::vector<ManualPage> manual_pages();

// Texts for the tools that read them, made from the pages and nothing else.
[[nodiscard]] std::string bash_completion(const std::vector<ManualPage>& pages);
[[nodiscard]] std::string zsh_completion(const std::vector<ManualPage>& pages);
/// troff, section 1.
[[nodiscard]] std::string manual(const std::vector<ManualPage>& pages);

}  // namespace peakcast::app
