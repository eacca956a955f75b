#include "workloads/capture/assume.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "workloads/capture/assumed_values.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

std::atomic<SiteFunction> ask_site{nullptr};

std::vector<std::pair<std::string, std::string>>& pending() {
  thread_local std::vector<std::pair<std::string, std::string>> list;
  return list;
}

/// Lines of kAssumedVariable, which the command has checked.
const std::vector<AssumedValue>& given_values() {
  static const auto* const values = [] {
    auto* const list = new std::vector<AssumedValue>;
    const char* const text = std::getenv(kAssumedVariable);
    std::string_view rest = text != nullptr ? text : "";
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      const auto value = parse_assumed_value(line);
      if (!value) {
        std::fprintf(stderr, "peakcast capture: %s\n", value.error().message.c_str());
        std::_Exit(2);
      }
      list->push_back(value.value());
    }
    return list;
  }();
  return *values;
}

std::string program_site() {
  const SiteFunction ask = ask_site.load();
  const char* const site = ask != nullptr ? ask() : nullptr;
  return site != nullptr ? site : "";
}

thread_local std::string asked_at;

}  // namespace

void look_up_site() {
  if (!given_values().empty()) {
    asked_at = program_site();
  }
}

std::optional<std::int64_t> given_value(std::string_view question, std::int64_t of) {
  return assumed_value(given_values(), question, asked_at, of);
}

void assume(std::string_view question, std::string_view answer) {
  pending().emplace_back(question, answer);
}

void settle_assumptions() {
  if (pending().empty()) {
    return;
  }
  const auto list = std::exchange(pending(), {});
  const std::string site = program_site();
  const std::lock_guard lock{machine().mutex};
  LogWriter& log = machine().log;
  for (const auto& [question, answer] : list) {
    log.write(
        {.id = log.string(site + '\t' + question + '\t' + answer), .kind = RecordKind::assumed});
  }
}

}  // namespace peakcast::capture

PEAKCAST_EXPORT void peakcast_capture_set_site(peakcast::capture::SiteFunction ask) {
  peakcast::capture::ask_site = ask;
}
