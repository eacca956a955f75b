#include "sim/report/page.hpp"

#include <array>
#include <span>
#include <utility>

#include "sim/core/check.hpp"
#include "sim/core/embedded.hpp"
#include "sim/trace/byte_source.hpp"

namespace peakcast {

/// page.html, as the build embeds it.
std::span<const EmbeddedFile> embedded_page();

namespace {

/// Columns of whole numbers: a count, then each value's difference to the one before, in zigzag and
/// 7 bits a byte, low first. The script of the page reads them in the same order.
class Columns {
 public:
  template <class Rows, class Get>
  void add(const Rows& rows, const Get& get) {
    put(static_cast<std::uint64_t>(rows.size()));
    std::int64_t last = 0;
    for (const auto& row : rows) {
      const auto value = static_cast<std::int64_t>(get(row));
      const std::int64_t step = value - last;
      put((static_cast<std::uint64_t>(step) << 1U) ^ static_cast<std::uint64_t>(step >> 63));
      last = value;
    }
  }
  [[nodiscard]] std::string take() { return std::move(bytes_); }

 private:
  void put(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7U) {
      bytes_ += static_cast<char>((value & 0x7fU) | 0x80U);
    }
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_{};
};

std::string base64(std::string_view bytes) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      const std::size_t at = i + k;
      group = group << 8U | (at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k > bytes.size() ? '=' : kDigits[group >> (18 - 6 * k) & 0x3fU];
    }
  }
  return text;
}

std::string packed(const PageRun& run) {
  Columns columns;
  using Block = PageRun::Block;
  using Segment = PageRun::Segment;
  using Level = PageRun::Level;
  columns.add(run.times_us, [](std::int64_t time) { return time; });
  columns.add(run.blocks, [](const Block& block) { return block.begin; });
  columns.add(run.blocks, [](const Block& block) { return block.dropped - block.begin; });
  columns.add(run.blocks, [](const Block& block) { return block.end - block.dropped; });
  columns.add(run.blocks, [](const Block& block) { return block.address.value(); });
  columns.add(run.blocks, [](const Block& block) { return block.size.count(); });
  columns.add(run.blocks,
              [](const Block& block) { return (block.size - block.requested).count(); });
  columns.add(run.blocks, [](const Block& block) { return block.label; });
  columns.add(run.blocks, [](const Block& block) { return static_cast<int>(block.category); });
  columns.add(run.blocks, [](const Block& block) { return block.stream; });
  columns.add(run.segments, [](const Segment& segment) { return segment.begin; });
  columns.add(run.segments, [](const Segment& segment) { return segment.end; });
  columns.add(run.segments, [](const Segment& segment) { return segment.address.value(); });
  columns.add(run.segments, [](const Segment& segment) { return segment.size.count(); });
  columns.add(run.segments, [](const Segment& segment) { return segment.stream; });
  columns.add(run.levels, [](const Level& level) { return level.entry; });
  columns.add(run.levels, [](const Level& level) { return level.allocated; });
  columns.add(run.levels, [](const Level& level) { return level.reserved; });
  columns.add(run.ooms, [](std::uint32_t entry) { return entry; });
  auto zipped = compressed_for("columns.gz", columns.take());
  check(bool{zipped}, "bytes in memory can be compressed");
  return base64(zipped.value());
}

Json json_of(const PageRun& run) {
  Json out;
  out["name"] = run.name;
  out["timed"] = run.timed;
  out["limit_bytes"] = bytes_or_null(run.limit);
  out["capacity_bytes"] = run.capacity.count();
  out["outside_bytes"] = run.outside.count();
  out["labels"] = run.labels;
  out["categories"] = Json::array();
  for (int i = 0; i < kCategoryCount; ++i) {
    out["categories"].push_back(to_string(static_cast<Category>(i)));
  }
  out["marks"] = Json::array();
  for (const PageRun::Mark& mark : run.marks) {
    out["marks"].push_back({mark.entry, mark.iteration, mark.name});
  }
  out["columns"] = packed(run);
  return out;
}

/// JSON that may stand inside a script element: a '<' could end it.
std::string script_text(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (std::size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at)) {
    text.replace(at, 1, "\\u003c");
  }
  return text;
}

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace

std::string report_page(std::string_view title, const Json& answer,
                        const std::vector<PageRun>& runs) {
  Json drawn = Json::array();
  for (const PageRun& run : runs) {
    drawn.push_back(json_of(run));
  }
  const std::array<std::pair<std::string_view, std::string>, 3> parts{
      {{"<!--title-->", html_text(title)},
       {"<!--answer-->", script_text(answer)},
       {"<!--runs-->", script_text(drawn)}}};
  const std::string_view page = embedded_page().front().text;
  std::string out;
  std::size_t from = 0;
  // Each placeholder stands where it stands in the template: what is put in is not searched again.
  while (from < page.size()) {
    std::size_t next = page.size();
    const std::pair<std::string_view, std::string>* which = nullptr;
    for (const auto& part : parts) {
      const std::size_t at = page.find(part.first, from);
      if (at < next) {
        next = at;
        which = &part;
      }
    }
    out.append(page.substr(from, next - from));
    from = next;
    if (which != nullptr) {
      out.append(which->second);
      from += which->first.size();
    }
  }
  return out;
}

}  // namespace peakcast
