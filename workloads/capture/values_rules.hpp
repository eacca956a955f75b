#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace peakcast::capture {

/// An answer that rests on a rule which is right for dense data: a mask is all true, a selection
/// keeps everything, nothing overflowed.
struct RuleAnswer {
  std::int64_t value{};  ///< its low bytes are what is copied
  std::int64_t of{1};    ///< what the value is at most
  std::string question{};
  std::string text{};
};

/// What the next copies to the host may ask for. The machine's lock is held, here and below.
void note_kernel(std::string_view name, void** arguments);
/// What this thread's next reads will find, known to the hooks.
void expect(std::vector<std::int64_t> values);
/// A mask of `of` elements chose `count` of them, on this thread.
void remember_chosen(std::int64_t of, std::int64_t count);
/// This memory holds something new: a count that nobody read is not there any more.
void forget_count(const void* card, std::size_t size);
/// Nothing: zeros it is, as for a loss or a norm, on which no size rests.
[[nodiscard]] std::optional<RuleAnswer> answer_by_rule(const void* card, std::size_t size,
                                                       std::string_view last_kernel);

}  // namespace peakcast::capture
