#include "sim/report/oom_text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <regex>
#include <utility>

#include <fmt/format.h>

#include "sim/core/size_text.hpp"

namespace peakcast {
namespace {

/// A message is a few hundred characters; a pasted log may be more. The regular expressions below
/// look at this much from "out of memory" on.
constexpr std::size_t kLongestMessage = 4096;

/// "2.50 GiB" as PyTorch prints sizes: two decimals of the largest unit that is not above it.
constexpr const char* kSize = R"((\d{1,7}(?:\.\d{1,2})?) (bytes|KiB|MiB|GiB))";

[[nodiscard]] Bytes size_of(const std::string& number, const std::string& unit) {
  const double scale = unit == "GiB"   ? 1024.0 * 1024.0 * 1024.0
                       : unit == "MiB" ? 1024.0 * 1024.0
                       : unit == "KiB" ? 1024.0
                                       : 1.0;
  return Bytes{std::llround(std::stod(number) * scale)};
}

class Reader {
 public:
  explicit Reader(std::string text) : text_{std::move(text)} {}

  /// The size that stands between two pieces of a regular expression.
  [[nodiscard]] std::optional<Bytes> find(const std::string& before,
                                          const std::string& after) const {
    std::smatch match;
    const std::regex pattern{before + kSize + after};
    if (!std::regex_search(text_, match, pattern)) {
      return std::nullopt;
    }
    return size_of(match[1], match[2]);
  }
  [[nodiscard]] std::optional<Bytes> sum(const std::string& before,
                                         const std::string& after) const {
    const std::regex pattern{before + kSize + after};
    std::optional<Bytes> total;
    for (std::sregex_iterator it{text_.begin(), text_.end(), pattern}, end; it != end; ++it) {
      total = total.value_or(Bytes{}) + size_of((*it)[1], (*it)[2]);
    }
    return total;
  }
  [[nodiscard]] std::int64_t gpu() const {
    std::smatch match;
    static const std::regex kPattern{R"(GPU (\d{1,4})(?: has|;))"};
    return std::regex_search(text_, match, kPattern) ? std::stoll(match[1]) : -1;
  }

 private:
  std::string text_;
};

/// One line, single blanks: messages come wrapped by terminals and forums.
[[nodiscard]] std::string flattened(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool blank = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (!blank) {
      out += c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  return out;
}

[[nodiscard]] Error missing(std::string_view figure) {
  return invalid_input(
      fmt::format("not a message of PyTorch's out-of-memory error: it does not say {}", figure));
}

/// Since 2.1. `oom` has what was tried.
[[nodiscard]] Expected<OomText> parse_sentences(const Reader& reader, OomText oom) {
  const auto capacity = reader.find("total capacity of ", "");
  const auto free = reader.find("of which ", " is free");
  const auto allocated = reader.find("[Oo]f the allocated memory ", " is allocated by PyTorch");
  const auto unallocated = reader.find("and ", " is reserved by PyTorch but unallocated");
  if (!free) {
    return missing("how much of the card is free");
  }
  if (!allocated) {
    return missing("how much is allocated by PyTorch");
  }
  if (!unallocated) {
    return missing("how much is reserved by PyTorch but unallocated");
  }
  oom.capacity = *capacity;
  oom.free = *free;
  oom.allocated = *allocated;
  oom.unallocated = *unallocated;
  oom.process = reader.find("this process has ", " memory in use");
  oom.named_others = reader.sum(R"([Pp]rocess \d+ has )", " memory in use");
  oom.allowed = reader.find("", " allowed");
  oom.private_pools = reader.find("with ", " allocated in private pools");
  return oom;
}

/// Before 2.1.
[[nodiscard]] Expected<OomText> parse_parenthesis(const Reader& reader, OomText oom) {
  const auto capacity = reader.find("", " total capacity");
  const auto allocated = reader.find("", " already allocated");
  const auto free = reader.find("", " free");
  const auto reserved = reader.find("", " reserved in total by PyTorch");
  if (!capacity) {
    return missing("the card's total capacity");
  }
  if (!allocated) {
    return missing("how much is already allocated");
  }
  if (!free) {
    return missing("how much of the card is free");
  }
  if (!reserved) {
    return missing("how much is reserved in total by PyTorch");
  }
  oom.capacity = *capacity;
  oom.free = *free;
  oom.allocated = *allocated;
  oom.unallocated = std::max(*reserved - *allocated, Bytes{});
  oom.allowed = reader.find("", " allowed");
  return oom;
}

[[nodiscard]] std::string text_of(Bytes bytes) { return size_text(bytes); }

}  // namespace

std::optional<Bytes> OomText::outside() const {
  return process ? std::optional{std::max(*process - reserved(), Bytes{})} : std::nullopt;
}

Bytes OomText::others() const {
  return std::max(capacity - free - process.value_or(reserved()), Bytes{});
}

std::string_view to_string(OomCause cause) {
  static constexpr std::array<std::string_view, 4> kNames{"limit", "fragmentation",
                                                          "other_processes", "demand"};
  return kNames[static_cast<std::size_t>(cause)];
}

Expected<OomText> parse_oom_text(std::string_view text) {
  const std::size_t begin = text.find("out of memory");
  if (begin == std::string_view::npos) {
    return missing("\"out of memory\"");
  }
  const Reader reader{flattened(text.substr(begin, kLongestMessage))};
  OomText oom;
  const auto tried = reader.find("Tried to allocate ", "");
  if (!tried) {
    return missing("what it tried to allocate");
  }
  oom.tried = *tried;
  oom.gpu = reader.gpu();
  return reader.find("total capacity of ", "") ? parse_sentences(reader, oom)
                                               : parse_parenthesis(reader, oom);
}

OomReading read_oom(const OomText& oom) {
  const std::string tried = text_of(oom.tried);
  if (oom.allowed && oom.reserved() + oom.tried > *oom.allowed && oom.free >= oom.tried) {
    OomReading out{
        OomCause::limit,
        fmt::format("The allocator's own limit of {} stopped it: the card has {} free.",
                    text_of(*oom.allowed), text_of(oom.free)),
        {"Raise or remove set_per_process_memory_fraction (or per_process_memory_fraction "
         "in the settings)."}};
    if (oom.unallocated >= oom.tried) {
      out.remedies.push_back(fmt::format(
          "{} is reserved and unallocated: expandable_segments:True may fit it within the limit.",
          text_of(oom.unallocated)));
    }
    return out;
  }
  if (oom.unallocated >= oom.tried) {
    return {
        OomCause::fragmentation,
        fmt::format("{} is reserved and unallocated, more than the {} that was asked for, but "
                    "not in one piece.",
                    text_of(oom.unallocated), tried),
        {"PYTORCH_ALLOC_CONF=expandable_segments:True joins free pieces (before 2.9 the "
         "variable is PYTORCH_CUDA_ALLOC_CONF).",
         "Record a snapshot and ask 'peakcast explain SNAPSHOT.pickle' which blocks pin them."}};
  }
  const Bytes within = oom.free + oom.unallocated;
  if (oom.others() > Bytes{} && oom.free + oom.others() >= oom.tried &&
      oom.named_others.value_or(Bytes{}) > Bytes{}) {
    return {OomCause::other_processes,
            fmt::format("Other processes hold {} of the card; without them {} would be free.",
                        text_of(oom.others()), text_of(oom.free + oom.others())),
            {"End them, or take another card: nvidia-smi lists them."}};
  }
  OomReading out{
      OomCause::demand,
      within >= oom.tried
          ? fmt::format("{} was asked for; free on the card ({}) and unallocated ({}) would only "
                        "do together, with nothing lost to fragmentation.",
                        tried, text_of(oom.free), text_of(oom.unallocated))
          : fmt::format("{} was asked for and at most {} can be had: {} too little whatever the "
                        "allocator does.",
                        tried, text_of(within), text_of(oom.tried - within)),
      {}};
  if (within >= oom.tried) {
    out.remedies.push_back("Try expandable_segments:True, which can use both.");
  }
  out.remedies.push_back(
      "Need less: a smaller batch with accumulation, checkpointing, a sharded or 8-bit optimizer "
      "('peakcast predict ... --advise').");
  return out;
}

}  // namespace peakcast
