#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/core/embedded.hpp"
#include "sim/core/nearest.hpp"
#include "sim/report/json.hpp"

namespace peakcast {
/// sim/app/schema/*.json.
std::span<const EmbeddedFile> embedded_schemas();
}  // namespace peakcast

namespace peakcast::app {
namespace {

/// What the others refer to; no command's own.
constexpr std::string_view kShared = "definitions";

/// Whose file it is, as it is typed: "trace info" for trace-info.json.
std::string command_of(const EmbeddedFile& file) {
  std::string name{file.name};
  std::replace(name.begin(), name.end(), '-', ' ');
  return name;
}

/// The file of `command`; null when there is none.
Json schema_of(std::string_view command) {
  for (const EmbeddedFile& file : embedded_schemas()) {
    if (command_of(file) == command) {
      return Json::parse(file.text);
    }
  }
  return nullptr;
}

}  // namespace

int run_schema(std::span<const std::string> words) {
  std::vector<std::string> given;
  CommandLine line{{"schema",
                    "The JSON Schema (2020-12) of what a command prints with --format json, and "
                    "under \"csvColumns\" the columns of its CSV",
                    "schema trace info"}};
  line.positionals("COMMAND", given, "the command, as it is typed");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (line.console().format == Format::csv) {
    throw Fault{"--format csv: a schema is JSON"};
  }
  std::vector<std::string> commands;
  for (const EmbeddedFile& file : embedded_schemas()) {
    if (file.name != kShared) {
      commands.push_back(command_of(file));
    }
  }
  if (given.empty()) {
    throw Fault{fmt::format("schema: COMMAND is missing: {}", fmt::join(commands, ", "))};
  }
  const std::string command = fmt::format("{}", fmt::join(given, " "));
  const std::vector<std::string_view> known(commands.begin(), commands.end());
  if (std::find(known.begin(), known.end(), command) == known.end()) {
    throw Fault{unknown_word("command", command, known)};
  }
  // In one document, so that a validator needs no second file: the shared one keeps its $id, by
  // which the references find it.
  Json schema = schema_of(command);
  schema["$defs"][kShared] = schema_of(kShared);
  write_stdout(json_text(schema));
  return kFits;
}

}  // namespace peakcast::app
