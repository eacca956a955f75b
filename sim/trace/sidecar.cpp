#include "sim/trace/sidecar.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/trace/derive_program.hpp"

namespace peakcast {
namespace {

using nlohmann::json;
// Figures keep the file's order.
using nlohmann::ordered_json;

/// A fault of the sidecar, inside this file only.
struct Wrong {
  std::string what;
};

std::int64_t whole(const ordered_json& value, std::string_view key) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
    throw Wrong{fmt::format("'{}' is not a whole number of 63 bits", key)};
  }
  return value.get<std::int64_t>();
}

Bytes size(const ordered_json& value, std::string_view key) {
  const std::int64_t count = whole(value, key);
  if (count < 0 || count > kLargestSize) {
    throw Wrong{fmt::format("'{}' is not a size up to 256 TiB", key)};
  }
  return Bytes{count};
}

std::string text(const ordered_json& value, std::string_view key) {
  if (!value.is_string()) {
    throw Wrong{fmt::format("'{}' is not a string", key)};
  }
  return value.get<std::string>();
}

const ordered_json* find(const ordered_json& object, std::string_view key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

const ordered_json& need(const ordered_json& object, std::string_view key, std::string_view where) {
  const ordered_json* value = object.is_object() ? find(object, key) : nullptr;
  if (value == nullptr) {
    throw Wrong{fmt::format("an entry of '{}' has no '{}'", where, key)};
  }
  return *value;
}

const ordered_json& list(const ordered_json& value, std::string_view key) {
  if (!value.is_array()) {
    throw Wrong{fmt::format("'{}' is not a list", key)};
  }
  return value;
}

RecordedBlock block(const ordered_json& value) {
  if (!value.is_array() || value.size() != 3) {
    throw Wrong{"a block of 'segments' is not [size, requested, state]"};
  }
  const std::string state = text(value[2], "state");
  if (state != "inactive" && state != "active_allocated" && state != "active_pending_free" &&
      state != "active_awaiting_free") {
    throw Wrong{fmt::format("block state '{}' is not known", state)};
  }
  return {size(value[0], "size"), size(value[1], "requested"), state == "active_allocated",
          state != "inactive"};
}

Sidecar read(const ordered_json& root) {
  if (!root.is_object()) {
    throw Wrong{"a JSON object is needed"};
  }
  Sidecar out;
  if (const auto* settings = find(root, "settings")) {
    if (!settings->is_object()) {
      throw Wrong{"'settings' is not an object"};
    }
    if (const auto* conf = find(*settings, "PYTORCH_CUDA_ALLOC_CONF")) {
      out.alloc_conf = text(*conf, "PYTORCH_CUDA_ALLOC_CONF");
    }
  }
  if (const auto* conf = find(root, "alloc_conf")) {
    out.alloc_conf = text(*conf, "alloc_conf");
  }
  if (const auto* limit = find(root, "allowed_bytes")) {
    out.limit = size(*limit, "allowed_bytes");
  }
  if (const auto* device = find(root, "device"); device != nullptr && device->is_object()) {
    if (const auto* total = find(*device, "total_memory")) {
      out.device_total = size(*total, "device.total_memory");
    }
  }
  if (const auto* total = find(root, "total_memory")) {
    out.device_total = size(*total, "total_memory");
  }
  if (const auto* version = find(root, "torch")) {
    out.framework = text(*version, "torch");
  }
  if (const auto* figures = find(root, "final")) {
    if (!figures->is_object()) {
      throw Wrong{"'final' is not an object"};
    }
    for (const auto& [name, value] : figures->items()) {
      out.final_statistics.push_back({name, whole(value, name)});
    }
  }
  if (const auto* segments = find(root, "segments")) {
    out.tells_kinds = true;
    std::int64_t reserved = 0;
    for (const auto& entry : list(*segments, "segments")) {
      RecordedSegment segment;
      const std::int64_t address = whole(need(entry, "address", "segments"), "address");
      const std::int64_t handle = whole(need(entry, "stream", "segments"), "stream");
      if (address <= 0 || static_cast<std::uint64_t>(address) > kLargestAddress || handle < 0) {
        throw Wrong{"a segment's address or stream is out of range"};
      }
      segment.address = Address{static_cast<std::uint64_t>(address)};
      segment.size = size(need(entry, "total_size", "segments"), "total_size");
      const auto* type = find(entry, "segment_type");
      const auto* expandable = find(entry, "expandable");
      segment.small_pool = type != nullptr && text(*type, "segment_type") == "small";
      segment.expandable =
          expandable != nullptr && expandable->is_boolean() && expandable->get<bool>();
      out.tells_kinds = out.tells_kinds && type != nullptr && expandable != nullptr;
      if (const auto* pool = find(entry, "pool")) {
        const std::int64_t number = whole(*pool, "pool");
        if (number < 0 || number > kMostPools) {
          throw Wrong{fmt::format("pool {} of a segment is out of range", number)};
        }
        segment.pool = static_cast<std::uint32_t>(number);
      }
      const auto known =
          std::find(out.handles.begin(), out.handles.end(), static_cast<std::uint64_t>(handle));
      segment.stream = StreamId{static_cast<std::uint32_t>(known - out.handles.begin())};
      if (known == out.handles.end()) {
        out.handles.push_back(static_cast<std::uint64_t>(handle));
      }
      Bytes tiled{};
      for (const auto& part : list(need(entry, "blocks", "segments"), "blocks")) {
        segment.blocks.push_back(block(part));
        tiled += segment.blocks.back().size;
        if (tiled > segment.size) {
          break;
        }
      }
      if (tiled != segment.size) {
        throw Wrong{fmt::format("the blocks of segment {} do not tile it", address)};
      }
      reserved += segment.size.count();
      if (reserved > kLargestSum) {
        throw Wrong{"the segments add up to more than 2 EiB"};
      }
      out.segments.push_back(std::move(segment));
    }
  }
  if (const auto* marks = find(root, "marks")) {
    for (const auto& mark : list(*marks, "marks")) {
      if (!mark.is_array() || mark.size() != 2) {
        throw Wrong{"an entry of 'marks' is not [time in us, name]"};
      }
      out.marks.push_back({whole(mark[0], "marks"), text(mark[1], "marks")});
    }
  }
  return out;
}

}  // namespace

std::string sidecar_path(const std::string& trace_path) {
  for (const std::string_view ending : {".csv", ".csv.gz", ".csv.zst"}) {
    if (trace_path.ends_with(ending)) {
      return trace_path.substr(0, trace_path.size() - ending.size()) + ".json";
    }
  }
  return "";
}

Expected<Sidecar> parse_sidecar(std::string_view bytes, const std::string& name) {
  try {
    return read(ordered_json::parse(bytes));
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what, InputPosition{name});
  } catch (const json::parse_error& error) {
    return invalid_input("not valid JSON",
                         InputPosition{name, 0, 0, static_cast<std::int64_t>(error.byte)});
  } catch (const json::exception& error) {
    return invalid_input(error.what(), InputPosition{name});
  }
}

namespace {

/// Whether segments are expandable and of the small pool, where the file does not say: the first by
/// the entries that lie in them (and by the settings where there are none), the second by the
/// sizes of their blocks, which are of one pool (and by their size where all is free).
void find_kinds(Recording& recording) {
  constexpr std::int64_t kSmallBlock = std::int64_t{1} << 20;
  constexpr std::int64_t kSmallSegment = std::int64_t{2} << 20;
  constexpr std::int64_t kLargePage = std::int64_t{20} << 20;
  std::set<Address> mapped;
  std::set<Address> acquired;
  for (const AllocatorEvent& event : recording.events) {
    if (event.action == Action::segment_map || event.action == Action::segment_unmap) {
      mapped.insert(event.address);
    } else if (event.action == Action::segment_alloc) {
      acquired.insert(event.address);
    }
  }
  const bool may_expand =
      recording.alloc_conf.find("expandable_segments:True") != std::string::npos;
  for (RecordedSegment& segment : recording.segments) {
    const auto in_it = mapped.lower_bound(segment.address);
    segment.expandable = (in_it != mapped.end() && *in_it < segment.address + segment.size) ||
                         (may_expand && !acquired.contains(segment.address));
    const auto block = std::find_if(segment.blocks.begin(), segment.blocks.end(),
                                    [](const RecordedBlock& b) { return b.active; });
    segment.small_pool = block != segment.blocks.end() ? block->size.count() <= kSmallBlock
                         : segment.expandable          ? segment.size.count() % kLargePage != 0
                                                       : segment.size.count() == kSmallSegment;
  }
}

}  // namespace

bool apply_sidecar(Trace& trace, const Sidecar& sidecar, StreamTable& streams) {
  Recording& recording = *trace.recording;
  recording.alloc_conf = sidecar.alloc_conf;
  recording.limit = sidecar.limit;
  recording.device_total = sidecar.device_total;
  recording.framework = sidecar.framework;
  recording.final_statistics = sidecar.final_statistics;
  recording.segments = sidecar.segments;
  for (RecordedSegment& segment : recording.segments) {
    const auto stream = streams.id(sidecar.handles[segment.stream.value]);
    if (!stream) {
      return false;
    }
    segment.stream = *stream;
  }
  if (!sidecar.tells_kinds) {
    find_kinds(recording);
  }
  return true;
}

void insert_marks(Trace& trace, const std::vector<Sidecar::Mark>& marks) {
  if (marks.empty() || trace.times_us.empty()) {
    return;
  }
  Recording& recording = *trace.recording;
  std::vector<Op> ops;
  std::vector<std::int64_t> times;
  std::vector<std::uint32_t> labels;
  std::vector<std::uint32_t> event_of_op;
  const std::size_t total = trace.ops.size() + marks.size();
  ops.reserve(total);
  times.reserve(total);
  event_of_op.reserve(total);
  std::size_t next = 0;
  const auto put_mark = [&] {
    const Sidecar::Mark& mark = marks[next++];
    // Few distinct names: a linear search keeps the strings in order of first use.
    const auto known = std::find(trace.strings.begin(), trace.strings.end(), mark.name);
    const auto index = static_cast<std::uint32_t>(known - trace.strings.begin());
    if (known == trace.strings.end()) {
      trace.strings.push_back(mark.name);
    }
    const std::size_t digits = mark.name.starts_with("iter")            ? 4
                               : mark.name.starts_with("ProfilerStep#") ? 13
                                                                        : std::string::npos;
    const bool iteration = digits < mark.name.size() &&
                           mark.name.find_first_not_of("0123456789", digits) == std::string::npos;
    const auto kind = iteration ? MarkKind::iteration : MarkKind::phase;
    ops.push_back({0, index, 0, OpKind::mark, static_cast<std::uint8_t>(kind)});
    times.push_back(mark.time_us);
    event_of_op.push_back(kNoEvent);
    if (!trace.labels.empty()) {
      labels.push_back(0);
    }
  };
  for (std::size_t i = 0; i < trace.ops.size(); ++i) {
    while (next < marks.size() && marks[next].time_us <= trace.times_us[i]) {
      put_mark();
    }
    ops.push_back(trace.ops[i]);
    times.push_back(trace.times_us[i]);
    event_of_op.push_back(recording.event_of_op[i]);
    if (!trace.labels.empty()) {
      labels.push_back(trace.labels[i]);
    }
  }
  while (next < marks.size()) {
    put_mark();
  }
  trace.ops = std::move(ops);
  trace.times_us = std::move(times);
  trace.labels = std::move(labels);
  recording.event_of_op = std::move(event_of_op);
}

std::string sidecar_json(const Trace& trace) {
  ordered_json out;
  if (trace.recording) {
    const Recording& recording = *trace.recording;
    if (!recording.framework.empty()) {
      out["torch"] = recording.framework;
    }
    out["alloc_conf"] = recording.alloc_conf;
    out["allowed_bytes"] =
        recording.limit ? ordered_json(recording.limit->count()) : ordered_json(nullptr);
    if (recording.device_total) {
      out["total_memory"] = recording.device_total->count();
    }
    out["final"] = ordered_json::object();
    for (const RecordedFigure& figure : recording.final_statistics) {
      out["final"][figure.name] = figure.value;
    }
    out["segments"] = ordered_json::array();
    for (const RecordedSegment& segment : recording.segments) {
      ordered_json entry;
      entry["address"] = segment.address.value();
      entry["total_size"] = segment.size.count();
      entry["stream"] = trace.streams[segment.stream.value];
      entry["segment_type"] = segment.small_pool ? "small" : "large";
      entry["expandable"] = segment.expandable;
      if (segment.pool != 0) {
        entry["pool"] = segment.pool;
      }
      entry["blocks"] = ordered_json::array();
      for (const RecordedBlock& block : segment.blocks) {
        entry["blocks"].push_back({block.size.count(), block.requested.count(),
                                   block.allocated ? "active_allocated"
                                   : block.active  ? "active_pending_free"
                                                   : "inactive"});
      }
      out["segments"].push_back(std::move(entry));
    }
  }
  out["marks"] = ordered_json::array();
  for (std::size_t i = 0; i < trace.ops.size() && !trace.times_us.empty(); ++i) {
    if (trace.ops[i].kind == OpKind::mark) {
      out["marks"].push_back({trace.times_us[i], trace.strings[trace.ops[i].id]});
    }
  }
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace peakcast
