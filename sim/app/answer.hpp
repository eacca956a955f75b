#pragma once

#include <string>

#include "sim/app/command_line.hpp"
#include "sim/app/console.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// How an answer is written, one pure function per format. A command is a question (what its flags
/// say), an answer (a struct that is computed from the question and nothing else) and these.
template <class Answer>
struct Writers {
  void (*json)(const Answer& answer, Json& report);  ///< adds its keys to report_head's
  std::string (*csv)(const Answer& answer);
  std::string (*text)(const Answer& answer);
};

/// `answer` as its JSON report, whatever format the flags ask for.
template <class Answer>
[[nodiscard]] Json json_report(const CommandLine& line, const Answer& answer,
                               const Writers<Answer>& writers) {
  Json report = report_head(line.command(), line.echo());
  writers.json(answer, report);
  return report;
}

/// `answer` in the format that the flags ask for.
template <class Answer>
[[nodiscard]] std::string written(const CommandLine& line, const Answer& answer,
                                  const Writers<Answer>& writers) {
  switch (line.console().format) {
    case Format::json:
      return json_text(json_report(line, answer, writers));
    case Format::csv:
      return writers.csv(answer);
    case Format::text:
      break;
  }
  return coloured(writers.text(answer));
}

}  // namespace peakcast::app
