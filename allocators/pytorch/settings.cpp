#include "allocators/pytorch/settings.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <string>
#include <vector>

#include "sim/core/nearest.hpp"

namespace peakcast::pytorch {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;

constexpr std::array kVersions{
    Version{.name = "2.5"},
    Version{.name = "2.6", .non_split_rounding_setting = true},
    Version{.name = "2.7", .non_split_rounding_setting = true},
    Version{.name = "2.8",
            .non_split_rounding_setting = true,
            .fallback_to_pools = true,
            .newest_pool_first = true},
    Version{.name = "2.9",
            .non_split_rounding_setting = true,
            .graph_reuse_setting = true,
            .fallback_to_pools = true,
            .newest_pool_first = true},
    Version{.name = "2.10",
            .non_split_rounding_setting = true,
            .graph_reuse_setting = true,
            .fraction_setting = true,
            .shared_parser = true,
            .open_interval_from_next = true,
            .fallback_to_pools = true,
            .newest_pool_first = true},
    Version{.name = "2.11",
            .non_split_rounding_setting = true,
            .graph_reuse_setting = true,
            .large_segment_setting = true,
            .fraction_setting = true,
            .shared_parser = true,
            .open_interval_from_next = true,
            .fallback_to_pools = true,
            .newest_pool_first = true},
};

/// The settings, and the switch of the release that has one (null: all have it).
struct Key {
  std::string_view name{};
  bool Version::*exists{};
};
constexpr std::array kKeys{
    Key{"backend", nullptr},
    Key{"expandable_segments", nullptr},
    Key{"garbage_collection_threshold", nullptr},
    Key{"graph_capture_record_stream_reuse", &Version::graph_reuse_setting},
    Key{"large_segment_size_mb", &Version::large_segment_setting},
    Key{"max_non_split_rounding_mb", &Version::non_split_rounding_setting},
    Key{"max_split_size_mb", nullptr},
    Key{"per_process_memory_fraction", &Version::fraction_setting},
    Key{"pinned_num_register_threads", nullptr},
    Key{"pinned_reserve_segment_size_mb", nullptr},
    Key{"pinned_use_background_threads", nullptr},
    Key{"pinned_use_cuda_host_register", nullptr},
    Key{"release_lock_on_cudamalloc", nullptr},
    Key{"roundup_power2_divisions", nullptr},
};

struct Token {
  std::string text{};
  std::int64_t column{};
};

bool is_separator(char c) { return c == ',' || c == ':' || c == '[' || c == ']'; }

std::vector<Token> tokens_of(std::string_view text, bool drop_all_white_space) {
  std::vector<Token> tokens;
  Token word;
  const auto flush = [&] {
    if (!word.text.empty()) {
      tokens.push_back(word);
      word.text.clear();
    }
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto column = static_cast<std::int64_t>(i) + 1;
    if (is_separator(c)) {
      flush();
      tokens.push_back(Token{std::string(1, c), column});
    } else if (c == ' ' || (drop_all_white_space &&
                            (c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'))) {
      continue;
    } else {
      if (word.text.empty()) {
        word.column = column;
      }
      word.text += c;
    }
  }
  flush();
  return tokens;
}

/// A cursor over the tokens that remembers the first fault.
class Parser {
 public:
  Parser(std::string_view text, const Version& version)
      : version_{version}, tokens_{tokens_of(text, version.shared_parser)}, length_{text.size()} {}

  Expected<Settings> parse();

 private:
  [[nodiscard]] Error fault(std::string message, std::size_t token) const {
    const std::int64_t column =
        token < tokens_.size() ? tokens_[token].column : static_cast<std::int64_t>(length_) + 1;
    return invalid_input(std::move(message),
                         InputPosition{.file = "alloc-conf", .line = 1, .column = column});
  }
  bool fail(std::string message, std::size_t token) {
    if (!error_) {
      error_ = fault(std::move(message), token);
    }
    return false;
  }
  /// The separator at `token`. Releases from 2.10 on only insist that there is a token.
  bool expect(std::size_t token, std::string_view separator) {
    if (token >= tokens_.size()) {
      return fail("expected '" + std::string{separator} + "', the settings string ends", token);
    }
    if (!version_.shared_parser && tokens_[token].text != separator) {
      return fail("expected '" + std::string{separator} + "' before '" + tokens_[token].text + "'",
                  token);
    }
    return true;
  }
  /// Leading digits count and what follows them is ignored, as std::stoull has it.
  bool integer(std::size_t token, std::string_view key, std::uint64_t& value) {
    if (token >= tokens_.size()) {
      return fail("expected a value for " + std::string{key}, token);
    }
    const std::string& text = tokens_[token].text;
    const char* first = text.data();
    if (!text.empty() && *first == '+') {
      ++first;
    }
    const auto [end, code] = std::from_chars(first, text.data() + text.size(), value);
    if (code != std::errc{} || end == first) {
      return fail("'" + text + "' is no number that " + std::string{key} + " can take", token);
    }
    return true;
  }
  bool real(std::size_t token, std::string_view key, double& value) {
    if (token >= tokens_.size()) {
      return fail("expected a value for " + std::string{key}, token);
    }
    const std::string& text = tokens_[token].text;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc{} || end == text.data()) {
      return fail("'" + text + "' is no number that " + std::string{key} + " can take", token);
    }
    return true;
  }
  bool boolean(std::size_t token, std::string_view key, bool& value) {
    if (token >= tokens_.size()) {
      return fail("expected True or False for " + std::string{key}, token);
    }
    const std::string& text = tokens_[token].text;
    if (text != "True" && text != "False") {
      return fail("expected True or False for " + std::string{key} + ", not '" + text + "'", token);
    }
    value = text == "True";
    return true;
  }

  /// The value of the key at `i`; advances `i` to its last token.
  bool value_of(std::size_t& i);
  bool divisions(std::size_t& i);
  bool division_list(std::size_t& i);
  bool large_segment_first();

  Version version_;
  std::vector<Token> tokens_;
  std::size_t length_;
  Settings settings_{};
  std::size_t large_segment_token_{};
  std::optional<Error> error_{};
};

bool Parser::division_list(std::size_t& i) {
  // i stands on '['.
  constexpr std::string_view kKey = "roundup_power2_divisions";
  auto& table = settings_.roundup_power2_divisions;
  bool first = true;
  std::size_t last = 0;
  ++i;
  while (i < tokens_.size() && tokens_[i].text != "]") {
    const std::size_t start = i;
    if (!expect(++i, ":")) {
      return false;
    }
    std::uint64_t division = 0;
    if (!integer(++i, kKey, division)) {
      return false;
    }
    if (division != 0 && !std::has_single_bit(division)) {
      return fail("roundup_power2_divisions takes powers of two, or 0 for off", i);
    }
    if (tokens_[start].text == ">") {
      const std::size_t from = version_.open_interval_from_next ? last + 1 : last;
      for (std::size_t k = from; k < table.size(); ++k) {
        table.at(k) = division;
      }
    } else {
      std::uint64_t interval = 0;
      if (!integer(start, kKey, interval)) {
        return false;
      }
      if (!std::has_single_bit(interval)) {
        return fail("the intervals of roundup_power2_divisions are powers of two, in MiB", start);
      }
      const std::size_t index =
          std::min<std::size_t>(static_cast<std::size_t>(std::countr_zero(interval)), 15);
      if (first) {
        std::fill_n(table.begin(), index, division);
        first = false;
      }
      table.at(index) = division;
      last = index;
    }
    ++i;
    if (i < tokens_.size() && tokens_[i].text != "]") {
      if (!expect(i, ",")) {
        return false;
      }
      ++i;
    }
  }
  if (i >= tokens_.size()) {
    return fail("roundup_power2_divisions: the list has no ']'", i);
  }
  return true;
}

bool Parser::divisions(std::size_t& i) {
  if (i >= tokens_.size()) {
    return fail("expected a value for roundup_power2_divisions", i);
  }
  if (tokens_[i].text == "[") {
    return division_list(i);
  }
  std::uint64_t division = 0;
  if (!integer(i, "roundup_power2_divisions", division)) {
    return false;
  }
  if (!std::has_single_bit(division)) {
    return fail("roundup_power2_divisions takes a power of two", i);
  }
  settings_.roundup_power2_divisions.fill(division);
  return true;
}

bool Parser::value_of(std::size_t& i) {
  const std::size_t key_token = i;
  const std::string key = tokens_[i].text;
  if (is_separator(key.front())) {
    return fail("expected a key before '" + key + "'", i);
  }
  const auto known = [&](bool here) {
    return here || fail("PyTorch " + std::string{version_.name} + " has no setting '" + key + "'",
                        key_token);
  };
  const auto separator = [&] { return expect(++i, ":"); };
  std::uint64_t number = 0;
  const std::uint64_t large_mib = settings_.large_segment_size / kMiB;
  if (key == "max_split_size_mb") {
    if (!separator() || !integer(++i, key, number)) {
      return false;
    }
    // Up to 2.9 the bound itself was refused.
    const bool big_enough = version_.shared_parser ? number >= large_mib : number > large_mib;
    if (!big_enough) {
      return fail("max_split_size_mb must be " +
                      std::string{version_.shared_parser ? "at least " : "more than "} +
                      std::to_string(large_mib) + ", the large segment size",
                  i);
    }
    settings_.max_split_size = std::min(number, Settings::kUnlimited / kMiB) * kMiB;
    return true;
  }
  if (key == "max_non_split_rounding_mb") {
    if (!known(version_.non_split_rounding_setting) || !separator() || !integer(++i, key, number)) {
      return false;
    }
    const bool big_enough = version_.shared_parser ? number >= large_mib : number > large_mib;
    if (!big_enough) {
      return fail("max_non_split_rounding_mb must be " +
                      std::string{version_.shared_parser ? "at least " : "more than "} +
                      std::to_string(large_mib) + ", the large segment size",
                  i);
    }
    settings_.max_non_split_rounding = std::min(number, Settings::kUnlimited / kMiB) * kMiB;
    return true;
  }
  if (key == "large_segment_size_mb") {
    // Its value was taken before all others.
    return known(version_.large_segment_setting) && separator() && integer(++i, key, number);
  }
  if (key == "garbage_collection_threshold") {
    double threshold = 0;
    if (!separator() || !real(++i, key, threshold)) {
      return false;
    }
    if (!(threshold > 0.0 && threshold < 1.0)) {
      return fail("garbage_collection_threshold lies strictly between 0 and 1", i);
    }
    settings_.garbage_collection_threshold = threshold;
    return true;
  }
  if (key == "roundup_power2_divisions") {
    return separator() && divisions(++i);
  }
  if (key == "expandable_segments") {
    return separator() && boolean(++i, key, settings_.expandable_segments);
  }
  if (key == "release_lock_on_cudamalloc" || key == "release_lock_on_hipmalloc") {
    return separator() && boolean(++i, key, settings_.release_lock_on_cudamalloc);
  }
  if (key == "per_process_memory_fraction") {
    double fraction = 0;
    if (!known(version_.fraction_setting) || !separator() || !real(++i, key, fraction)) {
      return false;
    }
    if (!(fraction >= 0.0 && fraction <= 1.0)) {
      return fail("per_process_memory_fraction lies between 0 and 1", i);
    }
    settings_.per_process_memory_fraction = fraction;
    return true;
  }
  if (key == "backend") {
    if (!separator()) {
      return false;
    }
    ++i;
    if (i >= tokens_.size() ||
        (tokens_[i].text != "native" && tokens_[i].text != "cudaMallocAsync")) {
      return fail("backend is native or cudaMallocAsync", i);
    }
    settings_.cuda_malloc_async = tokens_[i].text == "cudaMallocAsync";
    return true;
  }
  // Host memory and locking only: checked, and without effect on the device.
  bool flag = false;
  if (key == "pinned_use_cuda_host_register" || key == "pinned_use_hip_host_register" ||
      key == "pinned_use_background_threads") {
    return separator() && boolean(++i, key, flag);
  }
  if (key == "graph_capture_record_stream_reuse") {
    if (!known(version_.graph_reuse_setting) || !separator() || !boolean(++i, key, flag)) {
      return false;
    }
    return !flag || fail(
                        "graph_capture_record_stream_reuse needs the graph of a capture, which no "
                        "trace holds",
                        i);
  }
  if (key == "pinned_num_register_threads") {
    if (!separator() || !integer(++i, key, number)) {
      return false;
    }
    if (!std::has_single_bit(number) || number > 128) {
      return fail("pinned_num_register_threads is a power of two up to 128", i);
    }
    return true;
  }
  if (key == "pinned_reserve_segment_size_mb") {
    if (!separator() || !integer(++i, key, number)) {
      return false;
    }
    return number > 0 || fail("pinned_reserve_segment_size_mb is more than 0", i);
  }
  std::vector<std::string_view> known_keys;
  for (const Key& k : kKeys) {
    if (k.exists == nullptr || version_.*k.exists) {
      known_keys.push_back(k.name);
    }
  }
  return fail(unknown_word("setting", key, known_keys), key_token);
}

bool Parser::large_segment_first() {
  if (!version_.large_segment_setting) {
    return true;
  }
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].text != "large_segment_size_mb") {
      continue;
    }
    std::uint64_t number = 0;
    if (!expect(i + 1, ":") || !integer(i + 2, "large_segment_size_mb", number)) {
      return false;
    }
    if (number <= 10) {
      return fail("large_segment_size_mb must be more than 10", i + 2);
    }
    if (number > (1ULL << 20)) {
      return fail("large_segment_size_mb: a segment of more than 1 TiB is not simulated", i + 2);
    }
    settings_.large_segment_size = number * kMiB;
    large_segment_token_ = i + 2;
  }
  settings_.max_non_split_rounding = settings_.large_segment_size;
  return true;
}

Expected<Settings> Parser::parse() {
  bool good = large_segment_first();
  for (std::size_t i = 0; good && i < tokens_.size(); ++i) {
    good = value_of(i);
    if (good && i + 1 < tokens_.size()) {
      good = expect(++i, ",");
    }
  }
  // The driver creates physical memory in multiples of 2 MiB only: with such pages PyTorch fails at
  // its first mapping ("CUDA driver error: invalid argument").
  if (good && settings_.expandable_segments && settings_.large_segment_size % (2 * kMiB) != 0) {
    good = fail("large_segment_size_mb must be even for expandable segments", large_segment_token_);
  }
  if (!good) {
    return *error_;
  }
  return settings_;
}

}  // namespace

std::span<const Version> versions() { return kVersions; }

Expected<Version> find_version(std::string_view name) {
  if (name.empty()) {
    return kVersions.back();
  }
  std::string known;
  for (const Version& version : kVersions) {
    if (version.name == name) {
      return version;
    }
    known += (known.empty() ? "" : ", ") + std::string{version.name};
  }
  return invalid_input("PyTorch '" + std::string{name} + "' is not known; known are " + known);
}

Expected<Settings> parse_settings(std::string_view text, const Version& version) {
  return Parser{text, version}.parse();
}

}  // namespace peakcast::pytorch
