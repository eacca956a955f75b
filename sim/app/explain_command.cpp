#include <string>
#include <vector>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/engine.hpp"
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
  std::vector<std::string> subjects;
  std::optional<std::int64_t> device;
  CommandLine line{{"explain",
                    "Which reserved bytes serve nobody at the peak of a trace or of the run that "
                    "the flags describe, and who holds them; or what PyTorch's out-of-memory "
                    "message says",
                    "explain snapshot.pickle --policy pytorch"}};
  line.positionals(
      "TRACE", subjects,
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
  if (subjects.size() > 1) {
    throw Fault{"explain takes one trace, or one message in quotes"};
  }
  const bool described = flags.given() || line.given("program");
  if (subjects.empty() == !described) {
    throw Fault{subjects.empty() ? "explain needs a trace, a message or run flags (--model)"
                                 : "a trace and run flags exclude one another"};
  }
  if (!subjects.empty() && is_message(subjects.front())) {
    return explain_message(line, subjects.front());
  }
  if (flags.policies().size() != 1) {
    throw Fault{"--policy: explain takes one policy"};
  }
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
    question.subject = ReplayQuestion{.trace = subjects.front(),
                                      .policy = flags.policies().front(),
                                      .policy_given = line.given("policy"),
                                      .alloc_conf = flags.alloc_conf(),
                                      .limit = flags.limit(),
                                      .capacity = flags.capacity(),
                                      .device = device};
  }
  const ExplainAnswer found = native ? *std::move(native) : answer(question);
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
