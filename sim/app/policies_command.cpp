#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "allocators/plugin/plugin.hpp"
#include "allocators/pytorch/settings.hpp"
#include "allocators/registry.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/core/nearest.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {

namespace {

/// A switch of pytorch::Version in words.
struct Switch {
  std::string_view key;
  std::string_view what;
  bool pytorch::Version::*member;
};
constexpr std::array<Switch, 8> kSwitches{
    {{"non_split_rounding_setting", "knows max_non_split_rounding_mb",
      &pytorch::Version::non_split_rounding_setting},
     {"graph_reuse_setting", "knows graph_capture_record_stream_reuse",
      &pytorch::Version::graph_reuse_setting},
     {"large_segment_setting", "knows large_segment_size_mb",
      &pytorch::Version::large_segment_setting},
     {"fraction_setting", "knows per_process_memory_fraction", &pytorch::Version::fraction_setting},
     {"shared_parser",
      "parses settings with the parser shared by all devices (white space anywhere; "
      "max_split_size_mb may equal the large segment size)",
      &pytorch::Version::shared_parser},
     {"open_interval_from_next",
      "'>' in roundup_power2_divisions fills from the interval after the last one listed",
      &pytorch::Version::open_interval_from_next},
     {"fallback_to_pools", "may take from a MemPool(use_on_oom=True) when out of memory",
      &pytorch::Version::fallback_to_pools},
     {"newest_pool_first", "nested pool contexts: the innermost pool wins",
      &pytorch::Version::newest_pool_first}}};

Json versions_json() {
  Json out = Json::array();
  for (const pytorch::Version& version : pytorch::versions()) {
    Json row;
    row["name"] = version.name;
    for (const Switch& item : kSwitches) {
      row[item.key] = version.*item.member;
    }
    out.push_back(std::move(row));
  }
  return out;
}

/// What each version has that the one before it had not, and the other way round.
std::string versions_text() {
  std::string text = "versions, and what changed in each:\n";
  const pytorch::Version* before = nullptr;
  for (const pytorch::Version& version : pytorch::versions()) {
    std::string changes;
    for (const Switch& item : kSwitches) {
      const bool now = version.*item.member;
      if (before == nullptr ? now : now != before->*item.member) {
        changes += fmt::format("{:9}{} {}\n", "", now ? "+" : "-", item.what);
      }
    }
    text += fmt::format(
        "  {:6}{}", version.name,
        changes.empty() ? before == nullptr ? " the base\n" : " nothing\n" : changes.substr(8));
    before = &version;
  }
  return text +
         "With default settings every version places every block alike. Without a version,\n"
         "replay takes the recording's own and everything else the newest.\n";
}

}  // namespace

int run_policies(std::span<const std::string> words) {
  std::vector<std::string> names;
  CommandLine line{
      {"policies", "The allocator policies; with names, more about them", "policies pytorch"}};
  line.positionals("NAME", names, "tell more about this policy");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  std::vector<std::string_view> known;
  for (const PolicyEntry& entry : policies()) {
    known.push_back(entry.name);
  }
  for (const std::string& name : names) {
    if (!is_plugin(name) && find_policy(name) == nullptr) {
      throw Fault{unknown_word("policy", name, known)};
    }
  }
  Json list = Json::array();
  Table people{{{"policy", Table::Align::left}, {"what", Table::Align::left}}};
  Table programs{{{"policy", Table::Align::left},
                  {"summary", Table::Align::left},
                  {"options", Table::Align::left},
                  {"source", Table::Align::left}}};
  std::string details;
  for (const PolicyEntry& entry : policies()) {
    const bool wanted =
        names.empty() || std::find(names.begin(), names.end(), entry.name) != names.end();
    if (!wanted) {
      continue;
    }
    Json row;
    row["name"] = entry.name;
    row["summary"] = entry.summary;
    row["options"] = entry.options;
    row["source"] = entry.source;
    if (entry.name == "pytorch") {
      row["versions"] = versions_json();
    }
    list.push_back(std::move(row));
    people.add_row({std::string{entry.name}, std::string{entry.summary}});
    programs.add_row({std::string{entry.name}, std::string{entry.summary},
                      std::string{entry.options}, std::string{entry.source}});
    details += fmt::format("{}{}: {}\noptions: {}\nwritten from: {}\n", details.empty() ? "" : "\n",
                           entry.name, entry.summary,
                           entry.options.empty() ? "none" : entry.options, entry.source);
    if (entry.name == "pytorch") {
      details += versions_text();
    }
  }
  for (const std::string& name : names) {
    if (!is_plugin(name)) {
      continue;
    }
    const PluginDescription plugin = value_or_throw(describe_plugin(name));
    const std::string summary =
        fmt::format("a plug-in, '{}': {}{}{}", plugin.name,
                    plugin.one_heap ? "one heap for all streams" : "a heap for each stream",
                    plugin.trims ? ", gives memory back when asked" : "",
                    plugin.follows_iterations ? ", follows iterations" : "");
    list.push_back({{"name", name}, {"summary", summary}, {"options", ""}, {"source", name}});
    programs.add_row({name, summary, "", name});
    details += fmt::format("{}{}: {}\n", details.empty() ? "" : "\n", name, summary);
  }
  switch (line.console().format) {
    case Format::json: {
      Json out = report_head("policies", line.echo());
      out["policies"] = std::move(list);
      write_stdout(json_text(out));
      break;
    }
    case Format::csv:
      write_stdout(programs.csv());
      break;
    case Format::text:
      write_stdout(names.empty() ? people.text() : details);
      break;
  }
  return kFits;
}

}  // namespace peakcast::app
