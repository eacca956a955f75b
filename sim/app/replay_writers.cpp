#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/repeats.hpp"
#include "sim/app/replay_answer.hpp"
#include "sim/app/statistics_json.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

Json event_json(const std::optional<AllocatorEvent>& event, const Trace& trace) {
  if (!event) {
    return nullptr;
  }
  Json out;
  out["action"] = to_string(event->action);
  out["address"] = fmt::format("{:x}", event->address.value());
  out["size_bytes"] = event->size.count();
  out["stream"] = fmt::format("{:x}", trace.streams.at(event->stream.value));
  return out;
}

std::string event_text(const std::optional<AllocatorEvent>& event, const Trace& trace) {
  return event ? fmt::format("{},{:x},{},{:x}", to_string(event->action), event->address.value(),
                             event->size.count(), trace.streams.at(event->stream.value))
               : "nothing";
}

Json verification_json(const Verification& verification, const Trace& trace) {
  Json json;
  json["events"] = verification.events;
  json["matched"] = verification.matched;
  json["first_mismatch"] = nullptr;
  if (const auto& mismatch = verification.mismatch) {
    json["first_mismatch"] = {{"event", mismatch->event},
                              {"recorded", event_json(mismatch->recorded, trace)},
                              {"replayed", event_json(mismatch->replayed, trace)}};
  }
  json["addresses_compared"] = verification.with_addresses;
  json["final_differences"] = Json::array();
  for (const Difference& difference : verification.differences) {
    json["final_differences"].push_back({{"name", difference.name},
                                         {"recorded", difference.recorded},
                                         {"replayed", difference.replayed}});
  }
  json["segments_different"] = verification.segments_apart;
  return json;
}

void write_json(const ReplayAnswer& answer, Json& json) {
  const Statistics& statistics = answer.report.statistics;
  const std::string& sidecar = answer.loaded.sidecar;
  json["inputs"]["settings"] = {{"alloc_conf", answer.alloc_conf},
                                {"limit_bytes", bytes_or_null(answer.limit)},
                                {"capacity_bytes", answer.device.total.count()},
                                {"addresses", answer.recorded_addresses ? "recorded" : "modelled"},
                                {"sidecar", sidecar.empty() ? Json(nullptr) : Json(sidecar)}};
  json["policy"] = answer.policy.text();
  json["peak"] = peak_json(statistics);
  json["final"] = final_json(statistics);
  json["counts"] = counts_json(statistics);
  json["oom"] = oom_json(answer.oom);
  json["fragmentation"] = fragmentation(statistics);
  json["program_ops"] = answer.report.program_ops;
  json["allocator_driver_time_ns"] = answer.report.device_time.count();
  if (answer.question.repeat > 0) {
    json["repeats"] = repeats_json(repeat_costs(answer.report, answer.question.repeat));
  }
  if (const auto& use = answer.address_use) {
    json["addresses"] = {
        {"parted_at_event", use->parted_at_event ? Json(*use->parted_at_event) : Json(nullptr)},
        {"recorded_refusals", use->recorded_refusals}};
  }
  json["notes"] = answer.warnings;
  if (answer.verification) {
    json["verify"] = verification_json(*answer.verification, answer.loaded.trace);
  }
}

Table levels_table(const Statistics& statistics, bool in_bytes) {
  Table table{{{in_bytes ? "quantity" : "", Table::Align::left},
               {in_bytes ? "peak_bytes" : "peak"},
               {in_bytes ? "final_bytes" : "final"}}};
  const auto size = [&](std::int64_t bytes) {
    return in_bytes ? std::to_string(bytes) : size_text(Bytes{bytes});
  };
  const auto add = [&](const char* name, const Level& level) {
    table.add_row({name, size(level.peak), size(level.current)});
  };
  add("requested", statistics.requested);
  add("allocated", statistics.allocated);
  add("active", statistics.active);
  add("reserved", statistics.reserved);
  add("inactive split", statistics.inactive_split);
  return table;
}

std::string verification_text(const Verification& verification, const Trace& trace) {
  std::string text =
      fmt::format("\nverify: {} of {} recorded events matched{}\n",
                  count_text(verification.matched), count_text(verification.events),
                  verification.with_addresses ? ", addresses included" : ", addresses modelled");
  if (const auto& mismatch = verification.mismatch) {
    text +=
        fmt::format("first mismatch at event {}:\n  recorded {}\n  replayed {}\n", mismatch->event,
                    event_text(mismatch->recorded, trace), event_text(mismatch->replayed, trace));
  }
  for (const Difference& difference : verification.differences) {
    text += fmt::format("final {}: recorded {}, replayed {}\n", difference.name,
                        difference.recorded, difference.replayed);
  }
  if (verification.segments_apart > 0) {
    text += fmt::format("{} segments of the final snapshot differ\n", verification.segments_apart);
  }
  return text;
}

std::string csv_of(const ReplayAnswer& answer) {
  return levels_table(answer.report.statistics, true).csv();
}

std::string text_of(const ReplayAnswer& answer) {
  const Statistics& statistics = answer.report.statistics;
  std::string text =
      fmt::format("{} on {}{}{}\n\n{}\n", answer.policy.text(), answer.question.trace,
                  answer.alloc_conf.empty() ? "" : ", " + answer.alloc_conf,
                  answer.limit ? ", limit " + size_text(*answer.limit) : "",
                  levels_table(statistics, false).text());
  text += fmt::format("fragmentation {:.2f} % of the reserved peak\n",
                      100.0 * fragmentation(statistics));
  text += folded(fmt::format(
      "{} allocations, {} frees; {} segments allocated, {} freed; {} retries, {} out of memory\n",
      count_text(statistics.allocations.allocated), count_text(statistics.allocations.freed()),
      statistics.segments.allocated, statistics.segments.freed(), statistics.num_alloc_retries,
      statistics.num_ooms));
  if (answer.question.repeat > 0) {
    text += "driver calls in each repeat of the last iteration: " +
            repeats_text(repeat_costs(answer.report, answer.question.repeat)) + "\n";
  }
  if (answer.oom) {
    const OomReport& at = answer.oom->at;
    text += fmt::format("\nfirst out of memory at op {}{}{}:\n{}\n", at.op_index,
                        at.iteration >= 0 ? fmt::format(", iteration {}", at.iteration) : "",
                        at.phase.empty() ? "" : ", " + at.phase, answer.oom->message);
  }
  return answer.verification ? text + verification_text(*answer.verification, answer.loaded.trace)
                             : text;
}

}  // namespace

const Writers<ReplayAnswer>& replay_writers() {
  static constexpr Writers<ReplayAnswer> kWriters{
      .json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
