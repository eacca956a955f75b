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

/// nearest(), if `word` may be a slip of it: at most a third of the letters differ, and no digit
/// does (an h200 is no misspelt h100). Empty otherwise.
[[nodiscard]] std::string_view near(std::string_view word,
                                    std::span<const std::string_view> candidates);

/// `word` as the names of this program are written: lower case, '-' for '_' and ' '.
[[nodiscard]] std::string plain_word(std::string_view word);

/// "unknown WHAT 'WORD'" and what may be meant, in one form for every message of the program: ";
/// the nearest is 'CANDIDATE'" after near(), else the candidates that go on from `word` or that it
/// goes on from, else all of them where they are few.
[[nodiscard]] std::string unknown_word(std::string_view what, std::string_view word,
                                       std::span<const std::string_view> candidates);

}  // namespace peakcast
