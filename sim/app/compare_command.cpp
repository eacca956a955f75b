#include <optional>
#include <string>
#include <vector>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/compare_answer.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/engine.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/run_flags.hpp"

namespace peakcast::app {
namespace {

/// A policy more on a page costs as much again; the table has them all.
constexpr std::size_t kMostDrawn = 4;

std::vector<PageRun> drawn_policies(const CompareQuestion& question) {
  std::vector<PageRun> runs;
  for (const PolicyName& policy : question.policies) {
    if (runs.size() == kMostDrawn) {
      break;
    }
    if (question.run) {
      Run run = *question.run;
      run.policy = policy;
      run.alloc_conf = policy.is_pytorch() ? run.alloc_conf : "";
      runs.push_back(drawn_run(run, Time::none));
    } else {
      ReplayQuestion replayed{.trace = question.trace, .policy = policy, .policy_given = true};
      replayed.alloc_conf = policy.is_pytorch() ? question.alloc_conf : "";
      replayed.repeat = question.repeat;
      replayed.gpu = question.gpu;
      replayed.limit = question.limit;
      replayed.capacity = question.capacity;
      if (question.loaded) {
        replayed.addresses = Addresses::modelled;
        replayed.outside = question.outside;
        runs.push_back(drawn_replay(replayed, question.loaded->trace));
      } else {
        runs.push_back(drawn_replay(replayed));
      }
    }
  }
  return runs;
}

}  // namespace

int run_compare(std::span<const std::string> words) {
  std::optional<std::string> trace;
  CompareQuestion question;
  CommandLine line{
      {"compare",
       "One trace, or the run that the flags describe, under several policies (all "
       "unless --policy names some), beside the best packing",
       "compare run.csv.zst --policy pytorch,pytorch+expandable_segments:True,gmlake"}};
  line.optional_positional("TRACE", trace, "a trace of any known format, instead of run flags");
  RunFlags flags{line};
  const EngineFlags engine{line};
  line.size("max-memory", question.max_memory,
            "what reading the trace may take; 256 MiB and 4 KiB a byte of it unless given");
  line.number("pack-steps", question.pack_steps,
              "what the search for a packing may cost (traces of up to 1000 buffers), in steps of "
              "a few nanoseconds");
  line.number("repeat", question.repeat,
              "the last iteration so many times more, and what each repeat cost");
  DrawnFiles files;
  files.declare_report(line);
  files.declare_force(line);
  files.declare_timeline(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  const bool described = flags.given() || line.given("program");
  if (trace.has_value() == described) {
    throw Fault{!trace ? "compare needs a trace or run flags (--model)"
                       : "a trace and run flags exclude one another"};
  }
  question.policies_given = line.given("policy");
  question.policies = question.policies_given ? flags.policies() : all_policies();
  std::optional<CompareAnswer> native;
  if (described) {
    native = engine.natively([&] {
      question.run = flags.run();
      return answer(question);
    });
  } else {
    refuse_run(line, {"max-memory", "pack-steps", "repeat", "report", "force", "timeline"});
    question.trace = *trace;
    question.gpu = flags.gpu();
    question.capacity = flags.capacity();
  }
  if (!native) {
    question.limit = flags.limit();
    question.alloc_conf = flags.alloc_conf();
  }
  if (!native && described) {
    CapturedTrace captured = captured_trace(line, flags, engine);
    question.run.reset();
    question.trace = flags.spec().model;
    question.loaded = std::move(captured.loaded);
    question.capacity = captured.capacity;
    question.outside = captured.outside;
  }
  const CompareAnswer found = native ? *std::move(native) : answer(question);
  flags.settle_limit(found.device.total);
  for (const std::string& note : found.notes) {
    line.console().note(note);
  }
  if (files.any()) {
    files.write(json_report(line, found, compare_writers()), drawn_policies(question));
  }
  write_stdout(written(line, found, compare_writers()));
  return found.passed() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
