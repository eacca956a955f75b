#include "sim/trace/sidecar.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/trace/derive_program.hpp"
#include "sim/trace/json_document.hpp"
#include "sim/trace/text_fields.hpp"

namespace peakcast {
namespace {

// Figures keep the file's order.
using nlohmann::ordered_json;
using Kind = DataValue::Kind;

/// A fault of the sidecar, inside this file only.
struct Wrong {
  std::string what;
};

class Reader {
 public:
  explicit Reader(const Document& document) : document_{document} {}

  Sidecar read() {
    const DataValue& root = document_.root;
    if (root.kind != Kind::dict) {
      throw Wrong{"a JSON object is needed"};
    }
    if (const auto* settings = find(root, "settings")) {
      if (settings->kind != Kind::dict) {
        throw Wrong{"'settings' is not an object"};
      }
      if (const auto* conf = find(*settings, "PYTORCH_CUDA_ALLOC_CONF")) {
        out_.alloc_conf = text(*conf, "PYTORCH_CUDA_ALLOC_CONF");
      }
    }
    if (const auto* conf = find(root, "alloc_conf")) {
      out_.alloc_conf = text(*conf, "alloc_conf");
    }
    if (const auto* limit = find(root, "allowed_bytes")) {
      out_.limit = size(*limit, "allowed_bytes");
    }
    if (const auto* device = find(root, "device");
        device != nullptr && device->kind == Kind::dict) {
      if (const auto* total = find(*device, "total_memory")) {
        out_.device_total = size(*total, "device.total_memory");
      }
    }
    if (const auto* total = find(root, "total_memory")) {
      out_.device_total = size(*total, "total_memory");
    }
    if (const auto* version = find(root, "torch")) {
      out_.framework = text(*version, "torch");
    }
    read_figures();
    read_segments();
    read_marks();
    return std::move(out_);
  }

 private:
  static std::int64_t whole(const DataValue& value, std::string_view key) {
    if (value.kind != Kind::integer) {
      throw Wrong{fmt::format("'{}' is not a whole number of 63 bits", key.substr(0, 80))};
    }
    return value.integer;
  }
  static Bytes size(const DataValue& value, std::string_view key) {
    const std::int64_t count = whole(value, key);
    if (count < 0 || count > kLargestSize) {
      throw Wrong{fmt::format("'{}' is not a size up to 256 TiB", key)};
    }
    return Bytes{count};
  }
  [[nodiscard]] std::string text(const DataValue& value, std::string_view key) const {
    constexpr std::size_t kLongest = 4096;
    if (value.kind != Kind::text || document_.text(value).size() > kLongest) {
      throw Wrong{fmt::format("'{}' is not a string of up to 4096 bytes", key)};
    }
    return std::string{document_.text(value)};
  }
  [[nodiscard]] const DataValue* find(const DataValue& object, std::string_view key) const {
    const DataValue* value = document_.find(object, key);
    return value == nullptr || value->kind == Kind::none ? nullptr : value;
  }
  [[nodiscard]] const DataValue& need(const DataValue& object, std::string_view key,
                                      std::string_view where) const {
    const DataValue* value = find(object, key);
    if (value == nullptr) {
      throw Wrong{fmt::format("an entry of '{}' has no '{}'", where, key)};
    }
    return *value;
  }
  [[nodiscard]] const std::vector<DataValue>& list(const DataValue& value,
                                                   std::string_view key) const {
    if (value.kind != Kind::list) {
      throw Wrong{fmt::format("'{}' is not a list", key)};
    }
    return document_.list(value);
  }

  void read_figures() {
    const auto* figures = find(document_.root, "final");
    if (figures == nullptr) {
      return;
    }
    if (figures->kind != Kind::dict) {
      throw Wrong{"'final' is not an object"};
    }
    for (const auto& [name, value] : document_.dict(*figures)) {
      const std::string key{document_.text(name)};
      out_.final_statistics.push_back({key, whole(value, key)});
    }
  }

  void read_segments() {
    const auto* segments = find(document_.root, "segments");
    if (segments == nullptr) {
      return;
    }
    out_.tells_kinds = true;
    for (const DataValue& entry : list(*segments, "segments")) {
      out_.segments.push_back(read_segment(entry));
      reserved_ += out_.segments.back().size.count();
      if (reserved_ > kLargestSum) {
        throw Wrong{"the segments add up to more than 2 EiB"};
      }
    }
  }

  RecordedSegment read_segment(const DataValue& entry) {
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
        expandable != nullptr && expandable->kind == Kind::boolean && expandable->integer != 0;
    out_.tells_kinds = out_.tells_kinds && type != nullptr && expandable != nullptr;
    if (const auto* pool = find(entry, "pool")) {
      const std::int64_t number = whole(*pool, "pool");
      if (number < 0 || number > kMostPools) {
        throw Wrong{fmt::format("pool {} of a segment is out of range", number)};
      }
      segment.pool = static_cast<std::uint32_t>(number);
    }
    const auto [known, fresh] =
        index_of_handle_.try_emplace(static_cast<std::uint64_t>(handle), out_.handles.size());
    if (fresh) {
      out_.handles.push_back(static_cast<std::uint64_t>(handle));
    }
    segment.stream = StreamId{static_cast<std::uint32_t>(known->second)};
    Bytes tiled{};
    for (const DataValue& part : list(need(entry, "blocks", "segments"), "blocks")) {
      segment.blocks.push_back(block(part));
      tiled += segment.blocks.back().size;
      if (tiled > segment.size) {
        break;
      }
    }
    if (tiled != segment.size) {
      throw Wrong{fmt::format("the blocks of segment {} do not tile it", address)};
    }
    return segment;
  }

  [[nodiscard]] RecordedBlock block(const DataValue& value) const {
    if (value.kind != Kind::list || document_.list(value).size() != 3) {
      throw Wrong{"a block of 'segments' is not [size, requested, state]"};
    }
    const std::vector<DataValue>& part = document_.list(value);
    const std::string state = text(part[2], "state");
    if (state != "inactive" && state != "active_allocated" && state != "active_pending_free" &&
        state != "active_awaiting_free") {
      throw Wrong{
          fmt::format("block state {} is not known", peakcast::quoted(std::string_view{state}))};
    }
    return {size(part[0], "size"), size(part[1], "requested"), state == "active_allocated",
            state != "inactive"};
  }

  void read_marks() {
    const auto* marks = find(document_.root, "marks");
    if (marks == nullptr) {
      return;
    }
    for (const DataValue& mark : list(*marks, "marks")) {
      if (mark.kind != Kind::list || document_.list(mark).size() != 2) {
        throw Wrong{"an entry of 'marks' is not [time in us, name]"};
      }
      out_.marks.push_back(
          {whole(document_.list(mark)[0], "marks"), text(document_.list(mark)[1], "marks")});
    }
  }

  const Document& document_;
  Sidecar out_{};
  std::map<std::uint64_t, std::size_t> index_of_handle_{};
  std::int64_t reserved_{};
};

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
  const auto document = read_json_document(bytes, name, kMostSidecarMemory);
  if (!document) {
    return document.error();
  }
  try {
    return Reader{*document}.read();
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what, InputPosition{name});
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
  std::unordered_map<std::string, std::uint32_t> index_of_name;  // never iterated
  for (std::size_t i = 0; i < trace.strings.size(); ++i) {
    index_of_name.try_emplace(trace.strings[i], static_cast<std::uint32_t>(i));
  }
  const auto put_mark = [&] {
    const Sidecar::Mark& mark = marks[next++];
    const auto [known, fresh] =
        index_of_name.try_emplace(mark.name, static_cast<std::uint32_t>(trace.strings.size()));
    const std::uint32_t index = known->second;
    if (fresh) {
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
