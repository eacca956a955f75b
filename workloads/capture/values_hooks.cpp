#include "workloads/capture/values_hooks.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>

#include "workloads/capture/assume.hpp"
#include "workloads/capture/assumed_values.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"
#include "workloads/capture/values_memory.hpp"
#include "workloads/capture/values_rules.hpp"

namespace peakcast::capture {
namespace {

/// Copies to the card of at most this many bytes are kept; of at most kLarge when the hooks say
/// that they are integers.
constexpr std::size_t kKept = std::size_t{1} << 16;
constexpr std::size_t kLarge = std::size_t{1} << 26;
/// Beyond this nothing further is learnt: host memory stays bounded.
constexpr std::uint64_t kMost = std::uint64_t{1} << 30;

KnownMemory& known() {
  static auto* const memory = new KnownMemory;
  return *memory;
}

std::uint64_t number(const void* address) { return reinterpret_cast<std::uint64_t>(address); }

/// The user's own answer in place of a rule's.
void prefer_given(RuleAnswer& answer) {
  const auto given =
      answer.question.empty() ? std::nullopt : given_value(answer.question, answer.of);
  if (!given) {
    return;
  }
  answer.value = *given;
  if (answer.question == "all" || answer.question == "any") {
    answer.text = *given != 0 ? "true" : "false";
  } else {
    answer.text = std::to_string(*given) + " of " + std::to_string(answer.of);
    remember_chosen(answer.of, *given);  // the backward pass chooses by the same mask
  }
  answer.text += kAsGiven;
}

thread_local bool keeps_large = false;

bool keeps(std::size_t size) {
  return size <= (keeps_large ? kLarge : kKept) && known().bytes() + size <= kMost;
}

}  // namespace

void values_copied_to_card(void* card, const void* host, std::size_t size) {
  if (keeps(size)) {
    std::memcpy(card, host, size);
    known().learn(number(card), size);
  } else {
    known().forget(number(card), size);
  }
}

void values_copied_to_host(void* host, const void* card, std::size_t size,
                           std::string_view last_kernel) {
  if (known().knows(number(card), size)) {
    std::memcpy(host, card, size);
    return;
  }
  std::memset(host, 0, size);
  if (std::optional<RuleAnswer> answer = answer_by_rule(card, size, last_kernel)) {
    prefer_given(*answer);
    std::memcpy(host, &answer->value, std::min(size, sizeof answer->value));
    if (!answer->question.empty()) {
      assume(answer->question, answer->text);
    }
  }
}

void values_copied_on_card(void* to, const void* from, std::size_t size) {
  if (known().knows(number(from), size) && size <= kLarge) {
    std::memmove(to, from, size);
    known().learn(number(to), size);
  } else {
    known().forget(number(to), size);
  }
}

void values_set(void* card, int byte, std::size_t size) {
  if (keeps(size)) {
    std::memset(card, byte, size);
    known().learn(number(card), size);
  } else {
    known().forget(number(card), size);
  }
}

void values_launched(std::string_view kernel, const Dim3& /*grid*/, const Dim3& /*block*/,
                     void** arguments) {
  note_kernel(kernel, arguments);
}

void values_forgotten(void* card, std::size_t size) {
  known().forget(number(card), size);
  forget_count(card, size);
}

bool values_known(const void* card, std::size_t size) { return known().knows(number(card), size); }

}  // namespace peakcast::capture

using namespace peakcast::capture;

// What values.py calls. Addresses are the card's.
PEAKCAST_EXPORT int peakcast_values_known(const void* card, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  return known().knows(number(card), size) ? 1 : 0;
}
PEAKCAST_EXPORT void peakcast_values_learn(const void* card, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  if (known().bytes() + size <= kMost) {
    known().learn(number(card), size);
  }
}
PEAKCAST_EXPORT void peakcast_values_forget(const void* card, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  known().forget(number(card), size);
}
/// From here on this thread's large copies to the card are kept, or not.
PEAKCAST_EXPORT void peakcast_values_keep_large(int keep) { keeps_large = keep != 0; }
/// What this thread's next reads of at most eight bytes that nobody knows will find; 0 of them ends
/// it.
PEAKCAST_EXPORT void peakcast_values_answers(const std::int64_t* values, int count) {
  expect({values, values + count});
}
/// A mask of `of` elements chooses `count`.
PEAKCAST_EXPORT void peakcast_values_chosen(std::int64_t of, std::int64_t count) {
  const std::lock_guard lock{machine().mutex};
  remember_chosen(of, count);
}
PEAKCAST_EXPORT void peakcast_values_assume(const char* question, const char* answer) {
  assume(question, answer);
  settle_assumptions();
}
