#pragma once

#include <span>
#include <string>
#include <string_view>

namespace peakcast {

/// The candidate with the smallest edit distance to `word` (insertions, deletions, replacements and
/// swaps of neighbours count one each; upper and lower case are equal). Ties go to the first.
/// Empty when there are no candidates. O(candidates x |word| x |candidate|).
[[nodiscard]] std::string_view nearest(std::string_view word,
                                       std::span<const std::string_view> candidates);

/// "unknown WHAT 'WORD'; the nearest is 'CANDIDATE'", in one form for every message of the program.
[[nodiscard]] std::string unknown_word(std::string_view what, std::string_view word,
                                       std::span<const std::string_view> candidates);

}  // namespace peakcast
