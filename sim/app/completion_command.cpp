#include <array>
#include <string_view>
#include <utility>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/manual.hpp"
#include "sim/core/nearest.hpp"

namespace peakcast::app {

int run_completion(std::span<const std::string> words) {
  using Text = std::string (*)(const std::vector<ManualPage>&);
  static constexpr std::array<std::pair<std::string_view, Text>, 3> kKinds{
      {{"bash", bash_completion}, {"zsh", zsh_completion}, {"man", manual}}};
  std::string kind;
  CommandLine line{{"completion", "Completion for a shell, or the manual page",
                    "completion bash > ~/.local/share/bash-completion/completions/peakcast"}};
  line.positional("KIND", kind, "bash, zsh or man");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  std::vector<std::string_view> names;
  for (const auto& [name, text] : kKinds) {
    if (name == kind) {
      write_stdout(text(manual_pages()));
      return kFits;
    }
    names.push_back(name);
  }
  throw Fault{"completion: " + unknown_word("kind", kind, names)};
}

}  // namespace peakcast::app
