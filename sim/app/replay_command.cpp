#include <array>
#include <string>
#include <utility>
#include <vector>

#include "allocators/policy_list.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/drawn_run.hpp"
#include "sim/app/environment.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "sim/trace/snapshot.hpp"

namespace peakcast::app {

int run_replay(std::span<const std::string> words) {
  static constexpr std::array<std::pair<std::string_view, Addresses>, 2> kAddresses{
      {{"recorded", Addresses::recorded}, {"modelled", Addresses::modelled}}};
  ReplayQuestion question;
  std::string events_out;
  std::string policy = question.policy.text();
  std::string pickle;
  CommandLine line{{"replay", "Run a trace through an allocator policy",
                    "replay run.csv.zst --alloc-conf expandable_segments:True --limit 24GiB"}};
  line.positional("TRACE", question.trace, "the trace, of any known format; - is stdin");
  line.text("policy", "NAME", policy,
            "a policy of 'peakcast policies'; of a recording's own release where it says which");
  line.text("alloc-conf", "STRING", question.alloc_conf,
            "PyTorch's settings string; what was recorded unless given");
  line.limit(
      "limit", question.limit,
      "the allocator's own limit, or the part of the card (0.5, 50%); what was recorded unless "
      "given");
  line.text("gpu", "NAME|FILE", question.gpu,
            "the card whose memory it has ('peakcast gpus'); what was recorded unless given");
  line.size("capacity", question.capacity, "the card's memory; what was recorded unless given");
  line.choice<Addresses>("addresses", kAddresses, question.addresses,
                         "where device memory lies, if the trace knows");
  line.text("events-out", "FILE", events_out,
            "write what the policy did (action,addr,size,stream); - is stdout, without the report");
  line.text("pickle", "FILE", pickle,
            "write what the policy did as a snapshot that PyTorch's memory viewer opens");
  line.size("max-memory", question.max_memory,
            "what reading the trace may take; 256 MiB and 4 KiB a byte of it unless given");
  line.number("device", question.device, "whose entries, of a snapshot with several devices");
  line.flag("verify", question.verify, "compare with what was recorded; a mismatch exits 1");
  line.number("repeat", question.repeat,
              "the last iteration so many times more, and what each repeat cost");
  bool force = false;
  line.flag("force", force, "overwrite FILE where it is there");
  DrawnFiles files;
  files.declare_report(line);
  files.declare_timeline(line);
  if (const auto status = line.parse(words)) {
    return *status;
  }
  note_unread_settings(line);
  for (const std::string& file : {events_out, pickle}) {
    if (!file.empty()) {
      static_cast<void>(value_or_throw(may_write(file, force)));
    }
  }
  const std::vector<PolicyName> policies = policy_list(policy);
  if (policies.size() != 1) {
    throw Fault{"replay takes one policy; 'peakcast compare' takes several"};
  }
  question.policy = policies.front();
  question.policy_given = line.given("policy");
  question.addresses_given = line.given("addresses");
  question.keep_events = !events_out.empty();
  question.keep_run = !pickle.empty();

  files.overwrites = force;
  question.keep_page = files.any();
  const ReplayAnswer found = answer(question);
  static_cast<void>(settled(question.limit, found.device.total));
  for (const std::string& warning : found.warnings) {
    line.console().warn(warning);
  }
  if (question.keep_events) {
    const Trace& trace = found.loaded.trace;
    const std::string bytes = value_or_throw(
        compressed_for(events_out, recorded_csv(found.events, trace.streams, trace.strings)));
    static_cast<void>(value_or_throw(write_file(events_out, bytes, force)));
  }
  if (question.keep_run) {
    const std::string bytes =
        value_or_throw(compressed_for(pickle, value_or_throw(snapshot_pickle(found.run.trace))));
    static_cast<void>(value_or_throw(write_file(pickle, bytes, force)));
  }
  if (files.any()) {
    files.write(json_report(line, found, replay_writers()), {found.page});
  }
  if (events_out != "-" && pickle != "-") {
    write_stdout(written(line, found, replay_writers()));
  }
  return found.passed() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
