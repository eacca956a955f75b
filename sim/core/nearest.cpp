#include "sim/core/nearest.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

namespace peakcast {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// Optimal string alignment distance with three rows.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) {
    last[j] = j;
  }
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool equal = lower(a[i - 1]) == lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (equal ? 0U : 1U)});
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
          lower(a[i - 2]) == lower(b[j - 1])) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

/// A word that somebody pasted by mistake may be megabytes long; its head decides.
constexpr std::size_t kLongest = 64;

/// Without a flag's dashes, which every flag shares.
std::string_view bare(std::string_view word) {
  word.remove_prefix(std::min(word.find_first_not_of('-'), word.size()));
  return word;
}

std::string digits_of(std::string_view word) {
  std::string digits;
  std::copy_if(word.begin(), word.end(), std::back_inserter(digits),
               [](char c) { return c >= '0' && c <= '9'; });
  return digits;
}

/// Whether one of them is the other and more: "a100" and "a100-40g", "fsdp" and "fsdp2", "--batch"
/// and "--batch-size". A whole number does not go on: a100 is no a10.
bool goes_on_from(std::string_view one, std::string_view other) {
  const std::string a = plain_word(bare(one));
  const std::string b = plain_word(bare(other));
  const std::string& shorter = a.size() < b.size() ? a : b;
  const std::string& longer = a.size() < b.size() ? b : a;
  constexpr std::size_t kTelling = 2;  // one letter begins too much
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return shorter.size() >= kTelling && longer.starts_with(shorter) &&
         (longer.size() == shorter.size() || !is_digit(shorter.back()) ||
          !is_digit(longer[shorter.size()]));
}

}  // namespace

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  word = word.substr(0, kLongest);
  std::string_view best;
  std::size_t best_distance = 0;
  for (const std::string_view candidate : candidates) {
    const std::size_t d = distance(word, candidate);
    if (best.data() == nullptr || d < best_distance) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}

std::string_view near(std::string_view word, std::span<const std::string_view> candidates) {
  const std::string_view best = nearest(word, candidates);
  constexpr std::size_t kShare = 3;
  const std::size_t letters = std::max(bare(word).size(), bare(best).size());
  const bool close = kShare * distance(word.substr(0, kLongest), best) <= letters;
  return close && digits_of(word) == digits_of(best) ? best : std::string_view{};
}

std::string plain_word(std::string_view word) {
  std::string plain{word};
  std::transform(plain.begin(), plain.end(), plain.begin(),
                 [](char c) { return c == '_' || c == ' ' ? '-' : lower(c); });
  return plain;
}

std::string unknown_word(std::string_view what, std::string_view word,
                         std::span<const std::string_view> candidates) {
  word = word.substr(0, kLongest);
  std::string text = "unknown ";
  text.append(what).append(" '").append(word).append("'");
  std::vector<std::string_view> meant;
  if (const std::string_view best = near(word, candidates); !best.empty()) {
    meant = {best};
  } else {
    std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(meant),
                 [&](std::string_view candidate) { return goes_on_from(candidate, word); });
  }
  if (meant.size() == 1) {
    return text.append("; the nearest is '").append(meant.front()).append("'");
  }
  constexpr std::size_t kFew = 14;
  if (meant.empty() && candidates.size() <= kFew) {
    meant.assign(candidates.begin(), candidates.end());
  }
  for (const std::string_view one : meant) {
    text.append(one.data() == meant.front().data() ? "; there are: " : ", ").append(one);
  }
  return text;
}

}  // namespace peakcast
