#include "workloads/capture/values_rules.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <thread>
#include <unordered_map>
#include <utility>

#include "workloads/capture/machine.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

/// What a kernel says about the bytes that it leaves.
enum class Meaning : std::uint8_t { nothing, partial_count, count, last_count, unique, all, any };

/// Sums of cub's over PyTorch's NonZeroOp count what is not zero; its reductions of booleans are
/// named for what they do. Kept by the name's address: a function's name does not move.
Meaning meaning_of(std::string_view name) {
  static auto* const cache = new std::unordered_map<const char*, Meaning>;  // never iterated
  const auto [at, added] = cache->emplace(name.data(), Meaning::nothing);
  if (!added) {
    return at->second;
  }
  const auto has = [name](const char* part) { return name.find(part) != std::string_view::npos; };
  if (has("NonZeroOp") && has("DeviceReduceSingleTileKernel")) {
    at->second = Meaning::count;
  } else if (has("NonZeroOp") && has("DeviceReduceKernel")) {
    at->second = Meaning::partial_count;
  } else if (has("DeviceReduceSingleTileKernel")) {
    at->second = Meaning::last_count;
  } else if (has("DeviceSelectSweepKernel") && has("policy_hubI") && has("NS0_8NullTypeE")) {
    at->second = Meaning::unique;
  } else if (has("and_kernel") || has("AndKernel")) {
    at->second = Meaning::all;
  } else if (has("or_kernel") || has("OrKernel")) {
    at->second = Meaning::any;
  }
  return at->second;
}

/// Where a count will be read from, and what it counts.
struct Count {
  const void* where{};
  std::int64_t of{};
  const char* question{"nonzero"};
};
thread_local Count count;
thread_local std::int64_t partial = 0;
thread_local std::deque<std::int64_t> expected;
thread_local std::optional<std::int64_t> computed;

/// What masks of a size chose when the program used them, and on which thread: a backward pass on
/// another thread chooses by copies of the same masks, which nobody computed.
struct Chosen {
  std::int64_t count{};
  std::thread::id thread{};
};
std::unordered_map<std::int64_t, Chosen>& chosen() {
  static auto* const map = new std::unordered_map<std::int64_t, Chosen>;  // never iterated
  return *map;
}

/// Bytes of what a NonZeroOp looks at: its template argument, as g++ mangles it.
std::size_t element_of(std::string_view name) {
  constexpr std::string_view kOperator = "NonZeroOpI";
  const std::size_t at = name.find(kOperator);
  switch (at == std::string_view::npos ? '\0' : name[at + kOperator.size()]) {
    case 'b':
    case 'h':
    case 'a':
      return 1;
    case 'i':
      return 4;
    case 'l':
      return 8;
    default:
      return 0;
  }
}

/// How many of the elements are not zero, where their bytes are known.
std::optional<std::int64_t> count_in(const void* start, std::int64_t items, std::size_t size) {
  if (size == 0 || items <= 0 || card_of(start) < 0 ||
      !values_known(start, static_cast<std::size_t>(items) * size)) {
    return std::nullopt;
  }
  const auto* bytes = static_cast<const char*>(start);
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < items; ++i, bytes += size) {
    found += std::any_of(bytes, bytes + size, [](char byte) { return byte != 0; }) ? 1 : 0;
  }
  return found;
}

template <class T>
T argument(void** arguments, int index) {
  T value{};
  std::memcpy(&value, arguments[index], sizeof value);
  return value;
}

}  // namespace

void expect(std::vector<std::int64_t> values) { expected.assign(values.begin(), values.end()); }

void remember_chosen(std::int64_t of, std::int64_t count_) {
  chosen()[of] = {.count = count_, .thread = std::this_thread::get_id()};
}

void note_kernel(std::string_view name, void** arguments) {
  const Meaning meaning = meaning_of(name);
  if (arguments == nullptr) {
    return;
  }
  if ((meaning == Meaning::count || meaning == Meaning::partial_count) && expected.empty()) {
    // Backward passes choose by the same masks.
    const auto items = argument<std::int32_t>(arguments, 2);
    if (const auto known = count_in(argument<void*>(arguments, 0), items, element_of(name))) {
      computed = known;
    }
  }
  // cub's kernels: (input, output, number of items, ...); of a selection (input, flags, output,
  // where the number goes, state, two operators, number of items, ...).
  switch (meaning) {
    case Meaning::partial_count:
      partial = argument<std::int32_t>(arguments, 2);
      break;
    case Meaning::count:
      count = {.where = argument<void*>(arguments, 1), .of = argument<std::int32_t>(arguments, 2)};
      break;
    case Meaning::last_count:
      if (partial != 0) {
        count = {.where = argument<void*>(arguments, 1), .of = std::exchange(partial, 0)};
      }
      break;
    case Meaning::unique:
      count = {.where = argument<void*>(arguments, 3),
               .of = argument<std::int32_t>(arguments, 7),
               .question = "unique"};
      break;
    default:
      break;
  }
}

void forget_count(const void* card, std::size_t size) {
  const auto* const begin = static_cast<const char*>(card);
  const auto* const where = static_cast<const char*>(count.where);
  if (where != nullptr && where >= begin && where < begin + size) {
    count = {};
  }
}

std::optional<RuleAnswer> answer_by_rule(const void* card, std::size_t size,
                                         std::string_view last_kernel) {
  if (size > sizeof(std::int64_t)) {
    return std::nullopt;
  }
  const bool counts = card == count.where && card != nullptr && size > 1;
  const Count asked = counts ? std::exchange(count, Count{}) : Count{};
  if (!expected.empty()) {
    const std::int64_t value = expected.front();
    expected.pop_front();
    return RuleAnswer{.value = value};
  }
  if (counts && computed) {
    return RuleAnswer{.value = *std::exchange(computed, std::nullopt)};
  }
  if (counts) {
    const auto before = chosen().find(asked.of);
    if (before != chosen().end() && before->second.thread != std::this_thread::get_id()) {
      return RuleAnswer{.value = before->second.count};
    }
    const std::string all = std::to_string(asked.of);
    return RuleAnswer{
        .value = asked.of, .of = asked.of, .question = asked.question, .text = all + " of " + all};
  }
  if (size != 1) {
    return std::nullopt;
  }
  switch (meaning_of(last_kernel)) {
    case Meaning::all:
      return RuleAnswer{.value = 1, .question = "all", .text = "true"};
    case Meaning::any:
      return RuleAnswer{.value = 0, .question = "any", .text = "false"};
    default:
      return std::nullopt;
  }
}

}  // namespace peakcast::capture
