#include "workloads/capture/assume.hpp"

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture {
namespace {

std::atomic<SiteFunction> ask_site{nullptr};

std::vector<std::pair<std::string, std::string>>& pending() {
  thread_local std::vector<std::pair<std::string, std::string>> list;
  return list;
}

}  // namespace

void assume(std::string_view question, std::string_view answer) {
  pending().emplace_back(question, answer);
}

void settle_assumptions() {
  if (pending().empty()) {
    return;
  }
  const auto list = std::exchange(pending(), {});
  std::string site;
  if (const SiteFunction ask = ask_site.load()) {
    if (const char* const answer = ask()) {
      site = answer;
    }
  }
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
