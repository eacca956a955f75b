#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/explain_answer.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

/// How much is printed for people; JSON has all.
constexpr std::size_t kSegmentsShown = 8;
constexpr std::size_t kPinsShown = 3;
constexpr std::size_t kMapWidth = 72;

Json moment_json(const Moment& moment) {
  Json json;
  json["op"] = moment.op;
  json["event"] = moment.event ? Json(*moment.event) : Json(nullptr);
  json["iteration"] = moment.iteration < 0 ? Json(nullptr) : Json(moment.iteration);
  json["phase"] = moment.phase;
  json["label"] = moment.label;
  return json;
}

std::string stream_text(const ExplainAnswer& answer, StreamId stream) {
  return fmt::format("{:x}", answer.streams.at(stream.value));
}

bool idle(const WastedSegment& segment) { return segment.pins.empty(); }

Json pin_json(const ExplainAnswer& answer, const Pin& pin) {
  Json json;
  json["size_bytes"] = pin.size.count();
  json["requested_bytes"] = pin.requested.count();
  json["stream"] = stream_text(answer, pin.stream);
  json["state"] = pin.pending ? "held_by_stream" : "allocated";
  json["category"] = to_string(pin.category);
  json["age_ops"] = answer.waste.peak.op - pin.born.op;
  json["born"] = moment_json(pin.born);
  return json;
}

std::string_view words_of(WasteCause cause) {
  switch (cause) {
    case WasteCause::held_by_stream:
      return "dropped, another stream still uses it";
    case WasteCause::other_stream:
      return "free, but of another stream";
    case WasteCause::small_pool:
      return "free, for requests up to 1 MiB only";
    case WasteCause::idle_segment:
      return "nothing lives in the segment";
    case WasteCause::pinned_hole:
      return "free between blocks that live";
    case WasteCause::outside_view:
      return "kept by the driver's own pool";
  }
  return "";
}

Json segment_json(const ExplainAnswer& answer, const WastedSegment& segment) {
  Json json;
  json["address"] = fmt::format("{:x}", segment.address.value());
  json["size_bytes"] = segment.size.count();
  json["unused_bytes"] = segment.unused.count();
  json["largest_free_bytes"] = segment.largest_free.count();
  json["stream"] = stream_text(answer, segment.stream);
  json["pool"] = segment.small_pool ? "small" : "large";
  json["expandable"] = segment.expandable;
  json["state"] = idle(segment) ? "idle" : "pinned";
  json["taken"] = nullptr;
  if (segment.born) {
    Json taken = moment_json(*segment.born);
    taken["for_bytes"] = segment.born_for.count();
    taken["reason"] = to_string(segment.reason);
    taken["largest_usable_bytes"] = segment.largest_usable.count();
    taken["free_bytes"] = segment.free_then.count();
    json["taken"] = std::move(taken);
  }
  json["pinned_by"] = Json::array();
  for (const Pin& pin : segment.pins) {
    json["pinned_by"].push_back(pin_json(answer, pin));
  }
  return json;
}

void write_json(const ExplainAnswer& answer, Json& json) {
  const Waste& waste = answer.waste;
  if (!answer.engine.empty()) {
    json["engine"] = answer.engine;
  }
  json["policy"] = answer.policy;
  Json peak = moment_json(waste.peak);
  peak["reserved_bytes"] = waste.reserved.count();
  peak["allocated_bytes"] = waste.allocated.count();
  peak["requested_bytes"] = waste.requested.count();
  peak["unused_bytes"] = (waste.reserved - waste.allocated).count();
  peak["request_bytes"] = waste.request.count();
  peak["stream"] = stream_text(answer, waste.stream);
  peak["taken"] = nullptr;
  if (waste.taken) {
    peak["taken"] = {{"address", fmt::format("{:x}", waste.taken->address.value())},
                     {"size_bytes", waste.taken->size.count()}};
  }
  json["peak"] = std::move(peak);
  json["causes"] = Json::array();
  for (const Waste::Cause& cause : waste.causes) {
    Json row;
    row["cause"] = to_string(cause.cause);
    row["bytes"] = cause.bytes.count();
    row["segments"] = cause.segments;
    row["blocks"] = cause.blocks;
    row["means"] = words_of(cause.cause);
    json["causes"].push_back(std::move(row));
  }
  json["segments"] = Json::array();
  for (const WastedSegment& segment : waste.segments) {
    json["segments"].push_back(segment_json(answer, segment));
  }
  json["floor_bytes"] = answer.floor.count();
  json["alternatives"] = Json::array();
  for (const auto& other : answer.alternatives) {
    Json row;
    row["policy"] = other.policy;
    row["peak_reserved_bytes"] = other.peak_reserved.count();
    row["saves_bytes"] = (waste.reserved - other.peak_reserved).count();
    json["alternatives"].push_back(std::move(row));
  }
}

std::string csv_of(const ExplainAnswer& answer) {
  Table table{{{"cause"}, {"bytes"}, {"segments"}, {"blocks"}}};
  for (const Waste::Cause& cause : answer.waste.causes) {
    table.add_row({std::string{to_string(cause.cause)}, std::to_string(cause.bytes.count()),
                   std::to_string(cause.segments), std::to_string(cause.blocks)});
  }
  return table.csv();
}

std::string_view words_of(GrowthReason reason) {
  switch (reason) {
    case GrowthReason::needed:
      return "all free bytes together were less";
    case GrowthReason::held_by_stream:
      return "a block that would do was still held by a stream";
    case GrowthReason::other_stream:
      return "a free block that would do was another stream's";
    case GrowthReason::other_pool:
      return "a free block that would do was in the other pool";
    case GrowthReason::not_split:
      return "a free block would do, the settings keep it whole";
    case GrowthReason::too_small:
      return "each free block was too small";
  }
  return "";
}

std::string when(const Moment& moment) {
  std::string text = moment.op < 0 ? "before the trace" : fmt::format("op {}", moment.op);
  if (moment.event) {
    text += fmt::format(" (event {})", *moment.event);
  }
  if (moment.iteration >= 0) {
    text += fmt::format(", iteration {}", moment.iteration);
  }
  if (!moment.phase.empty()) {
    text += ", " + moment.phase;
  }
  return text;
}

/// A label is a stack's innermost frames, or an operator: as much as a line takes.
std::string label_of(const Moment& moment) {
  if (moment.label.empty()) {
    return "";
  }
  constexpr std::size_t kMost = 60;
  return moment.label.size() <= kMost ? moment.label : moment.label.substr(0, kMost - 3) + "...";
}

/// '#' lives, '~' is held by another stream, '.' is free; a place with some of each shows the first
/// of '#', '~' that it has, so nothing that pins is hidden.
std::string map_of(const WastedSegment& segment) {
  std::string map(kMapWidth, '.');
  __extension__ using Wide = __int128;
  for (const BlockView& block : segment.blocks) {
    if (block.state == BlockState::free) {
      continue;
    }
    const auto place = [&](Bytes offset) {
      return static_cast<std::size_t>(Wide{offset.count()} * kMapWidth / segment.size.count());
    };
    const std::size_t begin = place(block.address - segment.address);
    const std::size_t end =
        std::max(begin + 1, place(block.address - segment.address + block.size));
    for (std::size_t i = begin; i < std::min(end, kMapWidth); ++i) {
      map[i] = block.state == BlockState::allocated ? '#' : (map[i] == '#' ? '#' : '~');
    }
  }
  return map;
}

std::string segment_text(const ExplainAnswer& answer, const WastedSegment& segment) {
  std::string text = fmt::format(
      "{:x}  {} of {} unused{}{}{}\n  [{}]\n", segment.address.value(), size_text(segment.unused),
      size_text(segment.size), idle(segment) ? ", idle" : "",
      segment.small_pool ? ", small pool" : "",
      answer.streams.size() > 1 ? ", stream " + stream_text(answer, segment.stream) : "",
      map_of(segment));
  if (segment.born) {
    text += fmt::format("  taken at {}\n    for {}: {}{}\n", when(*segment.born),
                        size_text(segment.born_for), words_of(segment.reason),
                        segment.reason == GrowthReason::too_small
                            ? fmt::format(" (largest {})", size_text(segment.largest_usable))
                            : "");
    if (const std::string label = label_of(*segment.born); !label.empty()) {
      text += fmt::format("    {}\n", label);
    }
  } else {
    text += "  was there before the trace began, or the policy does not tell\n";
  }
  for (std::size_t i = 0; i < std::min(segment.pins.size(), kPinsShown); ++i) {
    const Pin& pin = segment.pins[i];
    text += fmt::format(
        "  pinned by {}{}, {}{}\n", size_text(pin.size),
        pin.category == Category::unknown ? "" : " of " + std::string{to_string(pin.category)},
        when(pin.born), pin.pending ? ", held by another stream" : "");
    if (const std::string label = label_of(pin.born); !label.empty()) {
      text += fmt::format("    {}\n", label);
    }
  }
  if (segment.pins.size() > kPinsShown) {
    text += fmt::format("  and by {} more\n", segment.pins.size() - kPinsShown);
  }
  return text;
}

std::string percent_of(Bytes part, Bytes whole) {
  return whole == Bytes{} ? "0.0 %"
                          : fmt::format("{:.1f} %", 100.0 * static_cast<double>(part.count()) /
                                                        static_cast<double>(whole.count()));
}

std::string alternatives_text(const ExplainAnswer& answer) {
  std::string text =
      fmt::format("largest live sum (no policy is below it): {}\n", size_text(answer.floor));
  if (answer.alternatives.empty()) {
    return text + "none of the policies that were tried holds less\n";
  }
  Table table{{{"what would hold less", Table::Align::left}, {"reserved"}, {"saves"}}};
  for (const auto& other : answer.alternatives) {
    table.add_row({other.policy, size_text(other.peak_reserved),
                   size_text(answer.waste.reserved - other.peak_reserved)});
  }
  return text + "\n" + table.text();
}

std::string text_of(const ExplainAnswer& answer) {
  const Waste& waste = answer.waste;
  const Bytes unused = waste.reserved - waste.allocated;
  if (waste.reserved == Bytes{}) {
    return answer.subject + "\nnothing is ever reserved\n";
  }
  std::string text = fmt::format(
      "{}\n\n{} of the {} reserved at the peak ({}) serve nobody\n"
      "peak at {},\n  asking for {}{}\n\n",
      answer.subject, size_text(unused), size_text(waste.reserved),
      percent_of(unused, waste.reserved), when(waste.peak), size_text(waste.request),
      waste.taken ? fmt::format("; {:x} of {} was taken for it", waste.taken->address.value(),
                                size_text(waste.taken->size))
                  : "");
  Table causes{{{"cause", Table::Align::left},
                {"unused"},
                {"share"},
                {"segments"},
                {"blocks"},
                {"", Table::Align::left}}};
  for (const Waste::Cause& cause : waste.causes) {
    causes.add_row({std::string{to_string(cause.cause)}, size_text(cause.bytes),
                    percent_of(cause.bytes, unused), count_text(cause.segments),
                    count_text(cause.blocks), std::string{words_of(cause.cause)}});
  }
  text += causes.text() + "\n";
  const std::size_t shown = std::min(waste.segments.size(), kSegmentsShown);
  text += fmt::format("segments with most of it ({} of {}); # lives, ~ held, . free\n\n", shown,
                      waste.segments.size());
  for (std::size_t i = 0; i < shown; ++i) {
    text += segment_text(answer, waste.segments[i]) + "\n";
  }
  return text + alternatives_text(answer);
}

// The message.

std::vector<std::pair<std::string, std::optional<Bytes>>> figures_of(const OomText& text) {
  return {{"tried_bytes", text.tried},
          {"capacity_bytes", text.capacity},
          {"free_bytes", text.free},
          {"process_bytes", text.process},
          {"allowed_bytes", text.allowed},
          {"allocated_bytes", text.allocated},
          {"private_pools_bytes", text.private_pools},
          {"unallocated_bytes", text.unallocated},
          {"reserved_bytes", text.reserved()},
          {"outside_bytes", text.outside()},
          {"other_processes_bytes", text.others()}};
}

std::string_view meaning_of(std::string_view figure) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kMeanings{{
      {"tried_bytes", "the segment asked of the driver, not the tensor"},
      {"capacity_bytes", "the card"},
      {"free_bytes", "of the card, whoever holds the rest"},
      {"process_bytes", "all that this process holds of the card"},
      {"allowed_bytes", "the allocator's own limit"},
      {"allocated_bytes", "in tensors, rounded by the allocator"},
      {"private_pools_bytes", "of allocated: pools of CUDA graphs"},
      {"unallocated_bytes", "cached: reserved, but in no tensor"},
      {"reserved_bytes", "held from the driver: allocated + unallocated"},
      {"outside_bytes", "context, libraries, NCCL: no allocator's"},
      {"other_processes_bytes", "the rest of the card"},
  }};
  for (const auto& [name, meaning] : kMeanings) {
    if (name == figure) {
      return meaning;
    }
  }
  return "";
}

void write_message_json(const MessageAnswer& answer, Json& json) {
  json["gpu"] = answer.text.gpu < 0 ? Json(nullptr) : Json(answer.text.gpu);
  for (const auto& [name, value] : figures_of(answer.text)) {
    json[name] = value ? Json(value->count()) : Json(nullptr);
  }
  json["cause"] = to_string(answer.reading.cause);
  json["verdict"] = answer.reading.verdict;
  json["remedies"] = answer.reading.remedies;
}

std::string message_csv(const MessageAnswer& answer) {
  Table table{{{"figure"}, {"bytes"}}};
  for (const auto& [name, value] : figures_of(answer.text)) {
    table.add_row({name, value ? std::to_string(value->count()) : ""});
  }
  return table.csv();
}

std::string message_text(const MessageAnswer& answer) {
  Table table{{{"figure", Table::Align::left}, {"size"}, {"what it is", Table::Align::left}}};
  for (const auto& [name, value] : figures_of(answer.text)) {
    if (value) {
      std::string words = name.substr(0, name.size() - std::string_view{"_bytes"}.size());
      std::replace(words.begin(), words.end(), '_', ' ');
      table.add_row({words, size_text(*value), std::string{meaning_of(name)}});
    }
  }
  std::string text = fmt::format("{}\n\n{}\n", answer.reading.verdict, table.text());
  for (const std::string& remedy : answer.reading.remedies) {
    text += fmt::format("- {}\n", remedy);
  }
  return text;
}

}  // namespace

const Writers<ExplainAnswer>& explain_writers() {
  static constexpr Writers<ExplainAnswer> kWriters{
      .json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

const Writers<MessageAnswer>& message_writers() {
  static constexpr Writers<MessageAnswer> kWriters{
      .json = write_message_json, .csv = message_csv, .text = message_text};
  return kWriters;
}

}  // namespace peakcast::app
