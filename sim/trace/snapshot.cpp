#include "sim/trace/snapshot.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/nearest.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/stream_table.hpp"

namespace peakcast {
namespace {

using Kind = DataValue::Kind;

constexpr std::size_t kLongestLabel = 4096;

/// A fault of the snapshot, inside this file only.
struct Wrong {
  std::string what;
};

class Importer {
 public:
  explicit Importer(const Document& document) : document_{document} {}

  Trace run(std::optional<std::int64_t> device) {
    if (document_.root.kind != Kind::dict) {
      throw Wrong{"a dict with 'device_traces' and 'segments' is needed"};
    }
    const DataValue* traces = document_.find(document_.root, "device_traces");
    const DataValue* segments = document_.find(document_.root, "segments");
    if (traces == nullptr || segments == nullptr) {
      throw Wrong{traces == nullptr ? "there is no 'device_traces'" : "there is no 'segments'"};
    }
    trace_.recording.emplace();
    const std::int64_t chosen = choose(list(*traces, "device_traces"), device);
    if (static_cast<std::uint64_t>(chosen) < list(*traces, "device_traces").size()) {
      read_entries(list(*traces, "device_traces")[static_cast<std::size_t>(chosen)], chosen);
    }
    read_segments(list(*segments, "segments"), chosen);
    read_settings();
    trace_.strings = strings_.take();
    streams_.finish(trace_);
    if (auto bad = derive_program(trace_, true)) {
      throw Wrong{bad->event < trace_.recording->events.size()
                      ? fmt::format("device_traces[{}][{}]: {}", chosen, bad->event, bad->why)
                      : bad->why};
    }
    Recording& recording = *trace_.recording;
    recording.head_lost = recording.head_lost || overflowed_ || grows_late() || unseen_segment();
    insert_marks(trace_, marks(chosen));
    return std::move(trace_);
  }

 private:
  const std::vector<DataValue>& list(const DataValue& value, std::string_view where) const {
    if (value.kind != Kind::list) {
      throw Wrong{fmt::format("{} is no list", where)};
    }
    return document_.list(value);
  }
  std::int64_t integer(const DataValue* value, std::string_view key) const {
    if (value == nullptr || value->kind != Kind::integer) {
      throw Wrong{fmt::format("'{}' is {}", key, value == nullptr ? "missing" : "no integer")};
    }
    return value->integer;
  }
  std::string_view text(const DataValue* value, std::string_view key) const {
    if (value == nullptr || value->kind != Kind::text) {
      throw Wrong{fmt::format("'{}' is {}", key, value == nullptr ? "missing" : "no text")};
    }
    return document_.text(*value);
  }
  Bytes size(const DataValue* value, std::string_view key) const {
    const std::int64_t count = integer(value, key);
    if (count < 0 || count > kLargestSize) {
      throw Wrong{fmt::format("'{}' {} is no size up to 256 TiB", key, count)};
    }
    return Bytes{count};
  }
  Address address(const DataValue* value, std::string_view key) const {
    const std::int64_t place = integer(value, key);
    if (place <= 0 || static_cast<std::uint64_t>(place) > kLargestAddress) {
      throw Wrong{fmt::format("'{}' {} cannot be a device address", key, place)};
    }
    return Address{static_cast<std::uint64_t>(place)};
  }
  StreamId stream(const DataValue* value) {
    // Old files know no streams.
    const std::int64_t handle = value == nullptr ? 0 : integer(value, "stream");
    const auto id = streams_.id(static_cast<std::uint64_t>(handle));
    if (!id) {
      throw Wrong{"one stream too many, or a reserved handle"};
    }
    return *id;
  }

  std::int64_t choose(const std::vector<DataValue>& traces, std::optional<std::int64_t> device) {
    std::vector<std::int64_t> with_entries;
    for (std::size_t i = 0; i < traces.size(); ++i) {
      if (!list(traces[i], fmt::format("device_traces[{}]", i)).empty()) {
        with_entries.push_back(static_cast<std::int64_t>(i));
      }
    }
    if (device) {
      return *device;
    }
    if (with_entries.size() > 1) {
      std::string known;
      for (const std::int64_t index : with_entries) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", index);
      }
      throw Wrong{fmt::format("several devices have entries ({}): --device chooses one", known)};
    }
    return with_entries.empty() ? 0 : with_entries.front();
  }

  void read_entries(const DataValue& entries, std::int64_t device) {
    const std::vector<DataValue>& items = document_.list(entries);
    Recording& recording = *trace_.recording;
    recording.events.reserve(items.size());
    bool timed = !items.empty();
    bool labelled = false;
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue& entry = items[i];
        if (entry.kind != Kind::dict) {
          throw Wrong{"the entry is no dict"};
        }
        recording.events.push_back(read_entry(entry));
        const DataValue* time = document_.find(entry, "time_us");
        timed = timed && time != nullptr;
        recording.times_us.push_back(time != nullptr ? integer(time, "time_us") : 0);
        const std::uint32_t label = read_label(document_.find(entry, "frames"));
        labelled = labelled || label != 0;
        recording.labels.push_back(label);
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("device_traces[{}][{}]: {}", device, i, wrong.what)};
      }
    }
    if (!timed) {
      recording.times_us.clear();
    }
    if (!labelled) {
      recording.labels.clear();
    }
  }

  AllocatorEvent read_entry(const DataValue& entry) {
    AllocatorEvent event;
    const std::string_view word = text(document_.find(entry, "action"), "action");
    const auto action = action_from(word);
    if (!action) {
      std::array<std::string_view, kActionCount> names{};
      for (int i = 0; i < kActionCount; ++i) {
        names.at(static_cast<std::size_t>(i)) = to_string(static_cast<Action>(i));
      }
      throw Wrong{unknown_word("action", word, names)};
    }
    event.action = *action;
    event.size = size(document_.find(entry, "size"), "size");
    event.stream = stream(document_.find(entry, "stream"));
    const DataValue* place = document_.find(entry, "addr");
    if (event.action == Action::oom) {
      const DataValue* free = document_.find(entry, "device_free");
      event.address = Address{
          static_cast<std::uint64_t>(size(free != nullptr ? free : place, "device_free").count())};
    } else if (event.action == Action::snapshot) {
      event.address =
          Address{static_cast<std::uint64_t>(place != nullptr ? size(place, "addr").count() : 0)};
    } else {
      event.address = address(place, "addr");
    }
    if (event.action != Action::snapshot && event.size == Bytes{}) {
      throw Wrong{"'size' is 0"};
    }
    return event;
  }

  /// Frame lists are shared by the entries of one stack: each is read once.
  std::uint32_t read_label(const DataValue* frames) {
    if (frames == nullptr || frames->kind != Kind::list || document_.list(*frames).empty()) {
      return 0;
    }
    const auto [known, fresh] = label_of_list_.try_emplace(frames->index, 0);
    if (fresh) {
      std::string label;
      for (const DataValue& frame : document_.list(*frames)) {
        if (frame.kind == Kind::text) {
          label.append(label.empty() ? "" : " < ").append(document_.text(frame));
        } else {
          const DataValue* line = document_.find(frame, "line");
          label += fmt::format(
              "{}{} ({}:{})", label.empty() ? "" : " < ",
              text(document_.find(frame, "name"), "name").substr(0, kLongestLabel),
              text(document_.find(frame, "filename"), "filename").substr(0, kLongestLabel),
              line != nullptr && line->kind == Kind::integer ? line->integer : 0);
        }
        if (label.size() >= kLongestLabel) {
          label.resize(kLongestLabel);
          break;
        }
      }
      std::replace(label.begin(), label.end(), '\n', ' ');
      label_bytes_ += label.size();
      // Shared frames could make labels out of nothing: a real file's stay below its own size.
      constexpr std::size_t kMostLabelBytes = std::size_t{1} << 30;
      if (label_bytes_ > kMostLabelBytes) {
        throw Wrong{"the stacks make up more than 1 GiB of text"};
      }
      known->second = strings_.index(label) + 1;
    }
    return known->second;
  }

  void read_segments(const std::vector<DataValue>& items, std::int64_t device) {
    std::size_t blocks = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue& item = items[i];
        const DataValue* on = document_.find(item, "device");
        if (on != nullptr && integer(on, "device") != device) {
          continue;
        }
        RecordedSegment segment;
        segment.address = address(document_.find(item, "address"), "address");
        segment.size = size(document_.find(item, "total_size"), "total_size");
        segment.stream = stream(document_.find(item, "stream"));
        const DataValue* type = document_.find(item, "segment_type");
        segment.small_pool = type != nullptr && text(type, "segment_type") == "small";
        const DataValue* expandable = document_.find(item, "is_expandable");
        segment.expandable =
            expandable != nullptr && expandable->kind == Kind::boolean && expandable->integer != 0;
        const DataValue* parts = document_.find(item, "blocks");
        if (parts == nullptr) {
          throw Wrong{"'blocks' is missing"};
        }
        Bytes tiled{};
        for (const DataValue& part : list(*parts, "'blocks'")) {
          segment.blocks.push_back(read_block(part));
          tiled += segment.blocks.back().size;
          // A shared list of blocks could stand for many times its bytes.
          constexpr std::size_t kMostBlocks = std::size_t{1} << 26;
          if (tiled > segment.size || ++blocks > kMostBlocks) {
            break;
          }
        }
        if (tiled != segment.size) {
          throw Wrong{
              fmt::format("its blocks hold {} bytes of {}", tiled.count(), segment.size.count())};
        }
        trace_.recording->segments.push_back(std::move(segment));
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("segments[{}]: {}", i, wrong.what)};
      }
    }
  }

  RecordedBlock read_block(const DataValue& part) const {
    RecordedBlock block;
    block.size = size(document_.find(part, "size"), "size");
    const DataValue* requested = document_.find(part, "requested_size");
    block.requested = requested != nullptr ? size(requested, "requested_size") : Bytes{};
    const std::string_view state = text(document_.find(part, "state"), "state");
    block.allocated = state == "active_allocated";
    block.active =
        block.allocated || state == "active_pending_free" || state == "active_awaiting_free";
    if (!block.active && state != "inactive") {
      throw Wrong{fmt::format("block state '{}' is not known", state.substr(0, 64))};
    }
    return block;
  }

  void read_settings() {
    const DataValue* settings = document_.find(document_.root, "allocator_settings");
    if (settings == nullptr) {
      return;
    }
    if (settings->kind != Kind::dict) {
      throw Wrong{"'allocator_settings' is no dict"};
    }
    if (const DataValue* conf = document_.find(*settings, "PYTORCH_CUDA_ALLOC_CONF")) {
      trace_.recording->alloc_conf = text(conf, "PYTORCH_CUDA_ALLOC_CONF");
    }
    if (const DataValue* lost = document_.find(*settings, "trace_alloc_overflowed")) {
      overflowed_ = lost->kind == Kind::boolean && lost->integer != 0;
    }
    if (trace_.recording->alloc_conf.empty()) {
      trace_.recording->alloc_conf = conf_of(*settings);
    }
  }

  /// Settings that were made by a call leave no string; the figures then say what is not default.
  std::string conf_of(const DataValue& settings) const {
    std::string conf;
    const auto add = [&](const std::string& word) { conf += (conf.empty() ? "" : ",") + word; };
    constexpr std::int64_t kMiB = std::int64_t{1} << 20;
    const DataValue* split = document_.find(settings, "max_split_size");
    if (split != nullptr && split->kind == Kind::integer && split->integer > 0 &&
        split->integer <= kLargestSize) {
      add(fmt::format("max_split_size_mb:{}", split->integer / kMiB));
    }
    const DataValue* collect = document_.find(settings, "garbage_collection_threshold");
    if (collect != nullptr && collect->kind == Kind::real && collect->real > 0 &&
        collect->real < 1) {
      add(fmt::format("garbage_collection_threshold:{}", collect->real));
    }
    const DataValue* expandable = document_.find(settings, "expandable_segments");
    if (expandable != nullptr && expandable->kind == Kind::boolean && expandable->integer != 0) {
      add("expandable_segments:True");
    }
    const DataValue* divisions = document_.find(settings, "roundup_power2_divisions");
    if (divisions != nullptr && divisions->kind == Kind::dict) {
      std::string items;
      bool any = false;
      for (std::int64_t interval = 1; interval <= 32768; interval *= 2) {
        const DataValue* value = document_.find(*divisions, std::to_string(interval));
        if (value != nullptr && value->kind == Kind::integer && value->integer >= 0) {
          items += fmt::format("{}{}:{}", items.empty() ? "" : ",", interval, value->integer);
          any = any || value->integer != 0;
        }
      }
      if (any) {
        add("roundup_power2_divisions:[" + items + "]");
      }
    }
    return conf;
  }

  std::vector<Sidecar::Mark> marks(std::int64_t device) const {
    std::vector<Sidecar::Mark> out;
    const DataValue* annotations = document_.find(document_.root, "external_annotations");
    if (annotations == nullptr || trace_.times_us.empty()) {
      return out;
    }
    const std::vector<DataValue>& items = list(*annotations, "external_annotations");
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue* on = document_.find(items[i], "device");
        if (text(document_.find(items[i], "stage"), "stage") == "START" &&
            (on == nullptr || integer(on, "device") == device)) {
          out.push_back({integer(document_.find(items[i], "time_us"), "time_us"),
                         std::string{text(document_.find(items[i], "name"), "name")}});
        }
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("external_annotations[{}]: {}", i, wrong.what)};
      }
    }
    std::stable_sort(out.begin(), out.end(),
                     [](const auto& a, const auto& b) { return a.time_us < b.time_us; });
    return out;
  }

  /// Whether a block was handed out before any segment was gained.
  [[nodiscard]] bool grows_late() const {
    for (const AllocatorEvent& event : trace_.recording->events) {
      if (event.action == Action::segment_alloc || event.action == Action::segment_map) {
        return false;
      }
      if (event.action == Action::alloc) {
        return true;
      }
    }
    return false;
  }
  /// Whether a segment of the end was gained without an entry (expandable ones grow and merge:
  /// they do not count).
  [[nodiscard]] bool unseen_segment() const {
    std::set<Address> gained;
    for (const AllocatorEvent& event : trace_.recording->events) {
      if (event.action == Action::segment_alloc) {
        gained.insert(event.address);
      }
    }
    return std::any_of(trace_.recording->segments.begin(), trace_.recording->segments.end(),
                       [&](const RecordedSegment& segment) {
                         return !segment.expandable && !gained.contains(segment.address);
                       });
  }

  const Document& document_;
  Trace trace_{};
  StreamTable streams_{};
  StringTable strings_{};
  std::unordered_map<std::uint64_t, std::uint32_t> label_of_list_{};  // never iterated
  std::size_t label_bytes_{};
  bool overflowed_{};
};

class Exporter {
 public:
  explicit Exporter(const Trace& trace) : trace_{trace}, recording_{*trace.recording} {
    for (std::size_t i = 0; i < recording_.labels.size(); ++i) {
      if (recording_.events[i].action == Action::alloc) {
        label_at_[recording_.events[i].address] = recording_.labels[i];
      }
    }
  }

  std::string run() {
    out_.begin_dict();
    out_.text("segments");
    put_segments();
    out_.text("device_traces");
    out_.begin_list();
    put_entries();
    out_.end_list();
    out_.text("allocator_settings");
    put_settings();
    out_.text("external_annotations");
    put_annotations();
    out_.end_dict();
    return out_.take();
  }

 private:
  void integer(std::string_view key, std::int64_t value) {
    if (value >= std::int64_t{1} << 53) {
      throw Wrong{
          fmt::format("{} {} is beyond 2^53, which the snapshot viewer cannot hold", key, value)};
    }
    out_.text(key);
    out_.integer(value);
  }
  void text(std::string_view key, std::string_view value) {
    out_.text(key);
    out_.text(value);
  }
  void boolean(std::string_view key, bool value) {
    out_.text(key);
    out_.boolean(value);
  }
  [[nodiscard]] std::int64_t handle(StreamId stream) const {
    return static_cast<std::int64_t>(trace_.streams[stream.value]);
  }

  /// A label's frames: "name (file:line) < …"; whatever else it is becomes one frame's name.
  void put_frames(std::uint32_t label) {
    out_.text("frames");
    if (label == 0) {
      out_.begin_list();
      out_.end_list();
      return;
    }
    const auto [known, fresh] = memo_of_label_.try_emplace(label, 0);
    if (!fresh) {
      out_.recall(known->second);
      return;
    }
    out_.begin_list();
    std::string_view rest = trace_.strings[label - 1];
    for (bool more = true; more;) {
      const std::size_t cut = rest.find(" < ");
      std::string_view frame = rest.substr(0, cut);
      more = cut != std::string_view::npos;
      rest.remove_prefix(more ? cut + 3 : rest.size());
      std::string_view file;
      std::int64_t line = 0;
      const std::size_t open = frame.rfind(" (");
      const std::size_t colon = frame.rfind(':');
      if (frame.ends_with(')') && open != std::string_view::npos &&
          colon != std::string_view::npos && colon > open && frame.size() - colon < 20) {
        const std::string_view digits = frame.substr(colon + 1, frame.size() - colon - 2);
        if (!digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos) {
          for (const char c : digits) {
            line = line * 10 + (c - '0');
          }
          file = frame.substr(open + 2, colon - open - 2);
          frame = frame.substr(0, open);
        }
      }
      out_.begin_dict();
      text("name", frame);
      text("filename", file);
      integer("line", std::min(line, (std::int64_t{1} << 53) - 1));
      out_.end_dict();
    }
    out_.end_list();
    known->second = out_.remember();
  }

  void put_entries() {
    out_.begin_list();
    for (std::size_t i = 0; i < recording_.events.size(); ++i) {
      const AllocatorEvent& event = recording_.events[i];
      out_.begin_dict();
      text("action", to_string(event.action));
      integer(event.action == Action::oom ? "device_free" : "addr",
              static_cast<std::int64_t>(event.address.value()));
      integer("size", event.size.count());
      integer("stream", handle(event.stream));
      if (!recording_.times_us.empty()) {
        integer("time_us", recording_.times_us[i]);
      }
      put_frames(recording_.labels.empty() ? 0 : recording_.labels[i]);
      out_.end_dict();
    }
    out_.end_list();
  }

  void put_segments() {
    out_.begin_list();
    for (const RecordedSegment& segment : recording_.segments) {
      Bytes allocated{};
      Bytes active{};
      Bytes requested{};
      for (const RecordedBlock& block : segment.blocks) {
        allocated += block.allocated ? block.size : Bytes{};
        active += block.active ? block.size : Bytes{};
        requested += block.active ? block.requested : Bytes{};
      }
      out_.begin_dict();
      integer("device", 0);
      integer("address", static_cast<std::int64_t>(segment.address.value()));
      integer("total_size", segment.size.count());
      integer("allocated_size", allocated.count());
      integer("active_size", active.count());
      integer("requested_size", requested.count());
      integer("stream", handle(segment.stream));
      text("segment_type", segment.small_pool ? "small" : "large");
      out_.text("segment_pool_id");
      out_.pair(0, 0);
      boolean("is_expandable", segment.expandable);
      put_frames(0);
      out_.text("blocks");
      out_.begin_list();
      Address address = segment.address;
      for (const RecordedBlock& block : segment.blocks) {
        out_.begin_dict();
        integer("address", static_cast<std::int64_t>(address.value()));
        integer("size", block.size.count());
        integer("requested_size", block.requested.count());
        text("state", block.allocated ? "active_allocated"
                      : block.active  ? "active_pending_free"
                                      : "inactive");
        const auto label = label_at_.find(address);
        put_frames(block.active && label != label_at_.end() ? label->second : 0);
        out_.end_dict();
        address = address + block.size;
      }
      out_.end_list();
      out_.end_dict();
    }
    out_.end_list();
  }

  void put_settings() {
    // The viewer shows what stands here; a reader of ours needs the string only, and whether the
    // head was lost.
    out_.begin_dict();
    text("PYTORCH_CUDA_ALLOC_CONF", recording_.alloc_conf);
    boolean("expandable_segments",
            recording_.alloc_conf.find("expandable_segments:True") != std::string::npos);
    if (recording_.head_lost) {
      boolean("trace_alloc_overflowed", true);
    }
    out_.end_dict();
  }

  void put_annotations() {
    out_.begin_list();
    std::string open;
    const auto put = [&](std::string_view name, std::string_view stage, std::int64_t time) {
      out_.begin_dict();
      text("name", name);
      text("stage", stage);
      integer("device", 0);
      integer("time_us", time);
      out_.end_dict();
    };
    for (std::size_t i = 0; i < trace_.ops.size() && !trace_.times_us.empty(); ++i) {
      if (trace_.ops[i].kind == OpKind::mark) {
        if (!open.empty()) {
          put(open, "END", trace_.times_us[i]);
        }
        open = trace_.strings[trace_.ops[i].id];
        put(open, "START", trace_.times_us[i]);
      }
    }
    if (!open.empty()) {
      put(open, "END", trace_.times_us.back());
    }
    out_.end_list();
  }

  const Trace& trace_;
  const Recording& recording_;
  PickleWriter out_{};
  std::map<Address, std::uint32_t> label_at_{};  ///< of what was handed out last at an address
  std::unordered_map<std::uint32_t, std::uint32_t> memo_of_label_{};  // never iterated
};

}  // namespace

Expected<Trace> trace_of_snapshot(const Document& document, const std::string& name,
                                  std::optional<std::int64_t> device) {
  try {
    return Importer{document}.run(device);
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what, InputPosition{name});
  }
}

Expected<std::string> snapshot_pickle(const Trace& trace) {
  check(trace.recording.has_value(), "a recording to export");
  try {
    return Exporter{trace}.run();
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what);
  }
}

}  // namespace peakcast
