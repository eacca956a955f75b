#include <optional>
#include <string>
#include <vector>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/explain_answer.hpp"

namespace peakcast::app {
namespace {

/// No file is called so, and every message has it.
bool is_message(const std::string& word) { return word.find("out of memory") != std::string::npos; }

int explain_message(const CommandLine& line, const std::string& text) {
  const OomText oom = value_or_throw(parse_oom_text(text));
  write_stdout(written(line, MessageAnswer{oom, read_oom(oom)}, message_writers()));
  return kFits;
}

ExplainQuestion about_capture(const CommandLine& line, RunFlags& flags, const EngineFlags& engine) {
  CapturedTrace captured = captured_trace(line, flags, engine);
  ExplainQuestion question;
  question.subject = ReplayQuestion{.trace = flags.spec().model,
                                    .policy = flags.policies().front(),
                                    .policy_given = line.given("policy"),
                                    .alloc_conf = flags.alloc_conf(),
                                    .limit = flags.limit(),
                                    .capacity = captured.capacity,
                                    .addresses = Addresses::modelled,
                                    .outside = captured.outside};
  question.loaded = std::move(captured.loaded);
  return question;
}

PageRun drawn_subject(const ExplainQuestion& question) {
  if (const auto* const run = std::get_if<Run>(&question.subject)) {
    return drawn_run(*run, Time::none);
  }
  const auto& replay = std::get<ReplayQuestion>(question.subject);
  return question.loaded ? drawn_replay(replay, question.loaded->trace) : drawn_replay(replay);
}

}  // namespace

int run_explain(std::span<const std::string> words) {
  std::optional<std::string> subject;
  std::optional<std::int64_t> device;
  CommandLine line{{"explain",
                    "Which reserved bytes serve nobody at the peak of a trace or of the run that "
                    "the flags describe, and who holds them; or what PyTorch's out-of-memory "
                    "message says",
                    "explain snapshot.pickle --policy pytorch"}};
  line.optional_positional(
      "TRACE", subject,
      "a trace of any known format, or the text of an out-of-memory message in quotes");
  RunFlags flags{line};
  const EngineFlags engine{line};
  DrawnFiles files;
  files.declare_report(line);
  files.declare_force(line);
  line.number("device", device, "whose entries, of a snapshot with several devices");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  const bool described = flags.given() || line.given("program");
  if (subject.has_value() == described) {
    throw Fault{!subject ? "explain needs a trace, a message or run flags (--model)"
                         : "a trace and run flags exclude one another"};
  }
  if (subject) {
    refuse_run(line, {"device", "report", "force"});
    if (is_message(*subject)) {
      return explain_message(line, *subject);
    }
  }
  static_cast<void>(flags.one_policy("explain"));
  ExplainQuestion question;
  std::optional<ExplainAnswer> native;
  if (described) {
    native = engine.natively([&] {
      question.subject = flags.run();
      return answer(question);
    });
    if (!native) {
      question = about_capture(line, flags, engine);
    }
  } else {
    question.subject = ReplayQuestion{.trace = *subject,
                                      .policy = flags.one_policy("explain"),
                                      .policy_given = line.given("policy"),
                                      .alloc_conf = flags.alloc_conf(),
                                      .gpu = flags.gpu(),
                                      .limit = flags.limit(),
                                      .capacity = flags.capacity(),
                                      .device = device};
  }
  const ExplainAnswer found = native ? *std::move(native) : answer(question);
  flags.settle_limit(found.card);
  for (const std::string& warning : found.warnings) {
    line.console().warn(warning);
  }
  if (files.any()) {
    files.write(json_report(line, found, explain_writers()), {drawn_subject(question)});
  }
  write_stdout(written(line, found, explain_writers()));
  return kFits;
}

}  // namespace peakcast::app
